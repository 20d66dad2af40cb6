"""From the recipe's `model` section to a network with a head of the right size."""

from __future__ import annotations

import copy
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from ffds.errors import InputError, nearest
from ffds.models.adapt import adapt, keeps_statistics
from ffds.models.heads import CosineHead, LinearHead
from ffds.models.resnet_cifar import ResNetCifar
from ffds.models.weights import load_weights
from ffds.recipes.schema import Model, Recipe
from ffds.seeding import derived_seed

__all__ = ["Classifier", "build_model", "check_takes_one_image", "new_head"]

HUB_SECONDS = 3.0
"""How long the hub may take to answer."""
_HUB_FILES = (
    "model.safetensors",
    "pytorch_model.bin",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)


class Classifier(nn.Module):
    """A backbone, images (N, C, h, w) → features (N, D), and a head, features → logits (N, classes).

    One that `keeps_statistics` computes its features in training as in evaluation: batch norm uses the
    statistics that it has and does not change them, and nothing is dropped out.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, *, keeps_statistics: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.keeps_statistics = keeps_statistics

    def train(self, mode: bool = True) -> Self:
        """Prepare for training or evaluation."""
        super().train(mode)
        if self.keeps_statistics:
            self.backbone.eval()
        return self

    @property
    def num_features(self) -> int:
        """D, the width of the features."""
        weight: Tensor = self.head.get_parameter("weight")
        return weight.shape[1]

    def forward(self, images: Tensor, with_features: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Logits, or (logits, features) for a loss that needs the input of the last layer.

        Instead of images it takes features (N, D), which the backbone has made of them before.
        """
        features = images if images.ndim == 2 else self.backbone(images)
        logits: Tensor = self.head(features)
        return (logits, features) if with_features else logits


def build_model(
    model: Model,
    *,
    head: Literal["linear", "cosine"],
    prior_bias: bool = False,
    num_classes: int,
    in_channels: int,
    seed: int,
    head_scale: float = 1.0,
    image_size: int | None = None,
) -> Classifier:
    """The network of a recipe, initialised from the seed alone; no global generator is touched.

    `head_scale` is that of a cosine head and `prior_bias` that of a linear one, `image_size` the side of the
    images that it will see, None if not known. timm not knowing the name or not getting its pretrained
    weights, weights of another network, or a network that cannot take that size, is an InputError.

    >>> network = build_model(Model(), head="linear", num_classes=10, in_channels=3, seed=0)
    >>> sum(weight.numel() for weight in network.parameters())
    464154
    """
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that would also seed the generators of all accelerators.
        torch.default_generator.manual_seed(derived_seed(seed, "model"))
        if model.name.startswith("timm/"):
            pretrained = model.pretrained and model.weights is None
            backbone = _timm_network(model.name.removeprefix("timm/"), pretrained, in_channels)
            num_features = backbone.head_hidden_size
        else:
            backbone = ResNetCifar(int(model.name.removeprefix("resnet")), in_channels)
            num_features = ResNetCifar.num_features
        if image_size is not None:
            _check_size(model, backbone, in_channels, image_size)
        size = num_features, num_classes
        if head == "cosine":
            classifier: nn.Module = CosineHead(*size, head_scale)
        else:
            classifier = LinearHead(*size, prior_bias=prior_bias)
        network = Classifier(backbone, classifier, keeps_statistics=keeps_statistics(model))
    if model.weights is not None:
        load_weights(network.backbone, network.head, model)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derived_seed(seed, "adapt"))
        adapt(network.backbone, model, num_classes)
    return network


def check_takes_one_image(model: nn.Module, image: Tensor, recipe: Recipe) -> None:
    """Refuse a network that cannot be trained on one image, (1, C, h, w).

    Batch norm of maps of 1x1 pixels cannot: a variance takes two values of each channel.
    """
    try:
        with torch.no_grad():
            copy.deepcopy(model).train()(image)
    except ValueError as error:
        what = f"{recipe.model.name} cannot be trained on batches of one image: {error}"
        allowed = "2 or more images for each device"
        fix = "a larger trainer.batch_size, fewer devices, or larger images with data.image_size"
        given = {"where": "trainer.batch_size", "got": recipe.trainer.batch_size}
        raise InputError(what, **given, allowed=allowed, fix=fix) from error


def new_head(head: nn.Module, seed: int) -> dict[str, Tensor]:
    """What a head of this kind and size begins with, by name, from the seed alone.

    It is another one than that with which the network began.
    """
    weight: Any = head.weight
    num_classes, num_features = weight.shape
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derived_seed(seed, "new head"))
        return type(head)(num_features, num_classes).state_dict()


def _timm_network(name: str, pretrained: bool, in_channels: int) -> Any:
    import timm  # takes half a second, which the networks of this package need not wait

    known = [*timm.list_models(), *timm.list_models(include_tags=True)]
    if name not in known:
        what, got = f"timm has no model {name}", f"timm/{name}"
        allowed = f"timm/ and a name that timm {timm.__version__} knows"
        raise InputError(what, where="model.name", got=got, allowed=allowed, fix=nearest(name, known))
    if pretrained:
        _check_hub(name)
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, in_chans=in_channels)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise _not_had(name, error) from error


def _check_hub(name: str) -> None:
    """Refuse at once what is neither on disk nor to be had: the hub's client would try for over a minute."""
    import huggingface_hub as hub
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        return
    repository, _, revision = config.hf_hub_id.partition("@")
    files = filter(None, (config.hf_hub_filename, *_HUB_FILES))
    if any(hub.try_to_load_from_cache(repository, file, revision=revision or None) for file in files):
        return
    try:
        hub.get_session().head(hub.constants.ENDPOINT, timeout=HUB_SECONDS)
    except Exception as error:  # of whichever HTTP library the hub's client has
        raise _not_had(name, error) from error


def _not_had(name: str, error: Exception) -> InputError:
    cause = str(error).partition("\n")[0] or type(error).__name__
    what = f"the pretrained weights of timm/{name} cannot be had: {cause}"
    fix = "give them as a file: model.weights=FILE; or connect to the network once so that they are cached, "
    fix += "name a model that has weights, or set model.pretrained to false"
    return InputError(what, where="model.pretrained", fix=fix)


def _check_size(model: Model, backbone: nn.Module, in_channels: int, image_size: int) -> None:
    """Refuse images of a size that the network cannot take, before a run begins."""
    try:
        with torch.no_grad():
            backbone.eval()(torch.zeros(1, in_channels, image_size, image_size))
    except (AssertionError, RuntimeError) as error:
        what = f"{model.name} cannot take images of this size: {str(error).splitlines()[0]}"
        fix = "set data.image_size to what it says, or choose a network for any size, such as timm/resnet18"
        raise InputError(what, where="data.image_size", got=image_size, fix=fix) from error
    backbone.train()
