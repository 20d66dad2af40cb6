"""From the recipe's `model` section to a network with a head of the right size."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ffds.errors import InputError, nearest
from ffds.models.heads import CosineHead, LinearHead
from ffds.models.resnet_cifar import ResNetCifar
from ffds.recipes.schema import Model
from ffds.seeding import derived_seed

__all__ = ["Classifier", "build_model"]


class Classifier(nn.Module):
    """A head on a backbone.

    Args:
        backbone: images (N, C, h, w) → features (N, D).
        head: features → logits (N, classes).
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor, with_features: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Logits, or (logits, features) for a loss that needs the input of the last layer."""
        features = self.backbone(images)
        logits: Tensor = self.head(features)
        return (logits, features) if with_features else logits


def build_model(
    model: Model,
    *,
    head: Literal["linear", "cosine"],
    num_classes: int,
    in_channels: int,
    seed: int,
    image_size: int | None = None,
) -> Classifier:
    """The network of a recipe, initialised from the seed alone; no global generator is touched.

    Args:
        model: the recipe's section.
        head: with `auto` resolved, see ``Recipe.head``.
        num_classes: C, at least 1.
        in_channels: of the images.
        seed: of the run.
        image_size: side of the images that it will see; None: not known.

    Raises:
        InputError: timm does not know the name, or cannot get its pretrained weights, or the network cannot
            take images of that size.

    >>> network = build_model(Model(), head="linear", num_classes=10, in_channels=3, seed=0)
    >>> sum(weight.numel() for weight in network.parameters())
    464154
    """
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that would also seed the generators of all accelerators.
        torch.default_generator.manual_seed(derived_seed(seed, "model"))
        backbone, num_features = _backbone(model, in_channels)
        if image_size is not None:
            _check_size(model, backbone, in_channels, image_size)
        return Classifier(
            backbone, {"linear": LinearHead, "cosine": CosineHead}[head](num_features, num_classes)
        )


def _backbone(model: Model, in_channels: int) -> tuple[nn.Module, int]:
    """A network that makes features, and how many."""
    if not model.name.startswith("timm/"):
        return ResNetCifar(int(model.name.removeprefix("resnet")), in_channels), ResNetCifar.num_features
    network = _timm_network(model.name.removeprefix("timm/"), model.pretrained, in_channels)
    return network, network.head_hidden_size


def _timm_network(name: str, pretrained: bool, in_channels: int) -> Any:
    import timm  # takes half a second, which the networks of this package need not wait

    known = [*timm.list_models(), *timm.list_models(include_tags=True)]
    if name not in known:
        raise InputError(
            f"timm has no model {name}",
            where="model.name",
            got=f"timm/{name}",
            allowed=f"timm/ and a name that timm {timm.__version__} knows",
            fix=nearest(name, known),
        )
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, in_chans=in_channels)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        cause = str(error).partition("\n")[0]
        raise InputError(
            f"the pretrained weights of timm/{name} cannot be had: {cause}",
            where="model.pretrained",
            fix="connect to the network once so that they are cached, name a model that has weights, "
            "or set model.pretrained to false",
        ) from error


def _check_size(model: Model, backbone: nn.Module, in_channels: int, image_size: int) -> None:
    """Refuse images of a size that the network cannot take, before a run begins."""
    try:
        with torch.no_grad():
            backbone.eval()(torch.zeros(1, in_channels, image_size, image_size))
    except (AssertionError, RuntimeError) as error:
        raise InputError(
            f"{model.name} cannot take images of this size: {str(error).partition(chr(10))[0]}",
            where="data.image_size",
            got=image_size,
            fix="set data.image_size to what it says, or choose a network that takes any size, such as "
            "timm/resnet18",
        ) from error
    backbone.train()
