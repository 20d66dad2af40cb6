"""A trained network loaded from its run directory, and evaluated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from ffds.data.content import images_sum
from ffds.data.dataset import Dataset, Split
from ffds.data.open import open_dataset, open_labelled
from ffds.data.sources.class_names import labels_among
from ffds.data.sources.registry import SOURCES
from ffds.errors import InputError
from ffds.inference.adjustment import Adjusted, class_shares, log_ratio, saved_adjustment
from ffds.inference.network import class_names, kept_checkpoint, trained_network
from ffds.inference.views import VIEWS, MeanOfViews, TestTimeAugmentation, ViewsTransform
from ffds.recipes.load import load_recipe
from ffds.recipes.schema import Data, Recipe
from ffds.run_directory import Run
from ffds.training.backend.devices import launch_fabric, precision_flags
from ffds.training.checkpoint import Checkpoint
from ffds.training.evaluate import Evaluated, eval_batches, evaluate

__all__ = ["TrainProbabilities", "evaluate_run", "in_classes", "loaded", "logits_of", "refuse_changed"]
__all__ += ["scored_images", "train_probabilities"]

_REDRAWS = ("data.seed", "data.test_fraction", "data.validation")


@dataclass(frozen=True)
class TrainProbabilities:
    """Probability (N,) of each training image's label, the label's group (N,), and p̄ of each group (M,)."""

    probability: NDArray[np.float64]
    group: NDArray[np.int64]
    group_means: NDArray[np.float64]


def evaluate_run(
    run: Run,
    overrides: Sequence[str] = (),
    *,
    adjusted: bool = False,
    prior: str | None = None,
    augmentation: TestTimeAugmentation = "none",
) -> Evaluated:
    """Scores of a run's kept checkpoint on its test set, or on other data with classes that it knows.

    The images are those of `scored_images`.

    Args:
        run: the run.
        overrides: ``data.KEY=value`` and ``trainer.KEY=value``.
        adjusted: whether to apply the adjustment that `ffds adjust` has saved beside the run.
        prior: shares π_new of the classes, see `class_shares`, where they are others than in training:
            p'(c) ∝ p(c) · π_new(c) / π_train(c). With `adjusted` they take the place of the adjustment's own.
        augmentation: views of each image; the mean of their probabilities counts.

    Raises:
        InputError: as `scored_images`, or there is no adjustment or no such prior.
    """
    recipe, checkpoint, split = scored_images(run, overrides)
    names, counts = class_names(checkpoint), checkpoint.identity["class_counts"]
    adjustment = saved_adjustment(run, checkpoint) if adjusted else None
    if adjusted and adjustment is None:
        raise InputError("the run has no adjustment", where=run.path, fix="fit one: ffds adjust RUN")
    if prior is not None:
        bias = log_ratio(class_shares(prior, names, counts), counts)
        temperature = adjustment.temperature if adjustment else 1.0
    elif adjustment is not None:
        bias, temperature = adjustment.bias(names, counts), adjustment.temperature

    def changed(network: nn.Module) -> nn.Module:
        if prior is not None or adjustment is not None:
            network = Adjusted(network, temperature, bias)
        return network if augmentation == "none" else MeanOfViews(network, VIEWS[augmentation])

    return _evaluated(recipe, checkpoint, split, changed, augmentation)


def scored_images(run: Run, overrides: Sequence[str] = ()) -> tuple[Recipe, Checkpoint, Split]:
    """The recipe of a run, its kept checkpoint, and the images to score, labelled in its classes.

    The overrides of the run's recipe are ``data.KEY=value`` and ``trainer.KEY=value``. Classes are compared
    by name. Images of your own that are not those of the run are scored as `open_labelled` says.

    Raises:
        InputError: the run has no checkpoint that can be read, an override concerns what was trained, the
            data have other classes, or their test set may contain images that were trained on.
    """
    keys = _keys(overrides)
    trained = [text for key, text in keys.items() if not key.startswith(("data.", "trainer."))]
    if trained:
        allowed = "data.KEY=value, trainer.KEY=value"
        raise InputError("a trained run cannot be changed", got=", ".join(trained), allowed=allowed)
    recipe, checkpoint = loaded(run, overrides)
    own_images = SOURCES[recipe.data.name].own_images
    others = "data.name" in keys or ("data.root" in keys and own_images)
    if others and not _were_trained_on(recipe.data, run, checkpoint):
        if own_images:
            return recipe, checkpoint, open_labelled(recipe.data, class_names(checkpoint))
    elif redrawn := [text for key, text in keys.items() if key in _REDRAWS]:
        what = "another split of the same images would test on images that were trained on"
        fix = "leave it out, or name other images: data.root=DIR"
        raise InputError(what, got=", ".join(redrawn), fix=fix)
    dataset = open_dataset(recipe.data)
    if not {"data.root", "data.name"} & keys.keys():
        refuse_changed(run, recipe, checkpoint, dataset)
    return recipe, checkpoint, in_classes(checkpoint, dataset, dataset.test)


def train_probabilities(run: Run, overrides: Sequence[str] = ()) -> TrainProbabilities:
    """The probability of each training image's label, without augmentation, with the loss's group means.

    The overrides say where the images are by now: ``data.root=DIR`` and the like.

    Raises:
        InputError: no checkpoint can be read, the loss has no group means, or the images are others than the
            run was trained on.
    """
    recipe, checkpoint = loaded(run, overrides)
    # Named rankR.PHASE.BUFFER.
    buffers = {
        name.split(".")[-1]: value for name, value in checkpoint.loss.items() if name.startswith("rank0.")
    }
    if "group_means" not in buffers:
        what, method = "the loss of this run has no group means", recipe.method.name
        raise InputError(what, where=run.path, got=method, allowed="ffds, d-ffds")
    dataset = open_dataset(recipe.data)
    refuse_changed(run, recipe, checkpoint, dataset)
    means, class_group = (buffers[name].numpy() for name in ("group_means", "class_group"))
    _, predictions = _evaluated(recipe, checkpoint, dataset.train)
    return TrainProbabilities(
        probability=predictions.label_probability.astype(np.float64),
        group=class_group[predictions.label],
        group_means=means.astype(np.float64),
    )


def _keys(overrides: Sequence[str]) -> dict[str, str]:
    """The overrides by their keys."""
    return {text.partition("=")[0].strip(): text for text in overrides}


def loaded(run: Run, overrides: Sequence[str]) -> tuple[Recipe, Checkpoint]:
    """The recipe of a run, with whichever images are there now, and its newest checkpoint."""
    recipe, keys = load_recipe(str(run.path / "recipe.yaml"), overrides).recipe, _keys(overrides)
    if not {"data.root", "data.name"} & keys.keys():
        recipe = recipe.with_root(run.located_recipe.data.root)
    if "data.images" not in keys:
        recipe = recipe.with_images(None)
    return recipe, kept_checkpoint(run)


def _were_trained_on(data: Data, run: Run, checkpoint: Checkpoint) -> bool:
    """Whether your own images are those of the run, moved to another place."""
    own = run.recipe.with_root(data.root).data
    with suppress(InputError):
        if own.images is not None and own.name == data.name:
            return images_sum(SOURCES[own.name].open(own)) == own.images
        return own.name == data.name and not open_dataset(own).changes(checkpoint.identity)
    return False


def refuse_changed(run: Run, recipe: Recipe, checkpoint: Checkpoint, dataset: Dataset) -> None:
    """Refuse images that changed since the run was trained, unless overrides ask for others of them."""
    asked = run.recipe.with_images(None).identity["data"] == recipe.identity["data"]
    if asked and (got := dataset.changes(checkpoint.identity)):
        what = (
            "the images have changed since the run was trained: some may now be tested on that were not then"
        )
        fix = "put them back, or name the images to score: data.root=DIR"
        raise InputError(what, where=recipe.data.root or recipe.data.name, got=got, fix=fix)


def in_classes(checkpoint: Checkpoint, dataset: Dataset, split: Split) -> Split:
    """A split with its labels in the classes of the run, compared by name."""
    labels = labels_among(class_names(checkpoint), dataset.class_names, split.labels, dataset.source)
    return replace(split, labels=labels)


def logits_of(recipe: Recipe, checkpoint: Checkpoint, split: Split) -> tuple[Tensor, Tensor]:
    """The logits float64 (N, classes) of the images of a split, and their labels (N,), both on the CPU."""
    fabric, network = _launched(recipe, checkpoint, split)
    rows: list[Tensor] = []
    with precision_flags(recipe.trainer), torch.inference_mode():
        for batch in eval_batches(fabric, split, recipe.data):
            with fabric.autocast():
                rows.append(network(batch.images).double().cpu())
    return torch.cat(rows).clone(), torch.from_numpy(split.labels)


def _evaluated(
    recipe: Recipe,
    checkpoint: Checkpoint,
    split: Split,
    changed: Callable[[nn.Module], nn.Module] = lambda network: network,
    augmentation: TestTimeAugmentation = "none",
) -> Evaluated:
    fabric, network = _launched(recipe, checkpoint, split)
    network = changed(network).to(fabric.device)
    batches = eval_batches(fabric, split, recipe.data, ViewsTransform(recipe.data, augmentation))
    counts = checkpoint.identity["class_counts"]
    with precision_flags(recipe.trainer):
        scores, predictions = evaluate(fabric, network, batches, counts, recipe.data.cut)
    named = replace(predictions, class_names=class_names(checkpoint), files=split.files)
    return Evaluated(scores, named)


def _launched(recipe: Recipe, checkpoint: Checkpoint, split: Split) -> tuple[Fabric, nn.Module]:
    """Fabric, and the trained network on its device, in evaluation mode."""
    fabric = launch_fabric(recipe.trainer)
    model, channels = trained_network(recipe, checkpoint)
    if split.images.shape[-1] != channels:
        got, allowed = f"{split.images.shape[-1]} channels", f"{channels}, as the network was trained with"
        raise InputError("the images have other channels than the network", got=got, allowed=allowed)
    if recipe.trainer.channels_last:
        model.to(memory_format=torch.channels_last)
    return fabric, fabric.setup_module(model).eval()
