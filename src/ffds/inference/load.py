"""A trained network loaded from its run directory, and evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ffds.data.dataset import Dataset, Split
from ffds.data.open import open_dataset
from ffds.errors import InputError
from ffds.models.build import build_model
from ffds.recipes.load import load_recipe
from ffds.recipes.schema import Recipe
from ffds.run_directory import Run
from ffds.training.checkpoint import Checkpoint, Checkpoints
from ffds.training.devices import launch_fabric, precision_flags
from ffds.training.evaluate import Evaluated, eval_batches, evaluate

__all__ = ["TrainProbabilities", "evaluate_run", "train_probabilities"]

_REDRAWS = ("data.seed=", "data.test_fraction=", "data.validation=")


@dataclass(frozen=True)
class TrainProbabilities:
    """Probability (N,) of each training image's label, the label's group (N,), and p̄ of each group (M,)."""

    probability: NDArray[np.float64]
    group: NDArray[np.int64]
    group_means: NDArray[np.float64]


def evaluate_run(run: Run, overrides: Sequence[str] = ()) -> Evaluated:
    """Scores of a run's newest checkpoint on its test set, or on that of other data with the same classes.

    The overrides of the run's recipe are ``data.KEY=value`` and ``trainer.KEY=value``.

    Raises:
        InputError: the run has no checkpoint that can be read, an override concerns what was trained, the
            data have other classes, or their test set may contain images that were trained on.
    """
    trained = [text for text in overrides if not text.startswith(("data.", "trainer."))]
    if trained:
        allowed = "data.KEY=value, trainer.KEY=value"
        raise InputError("a trained run cannot be changed", got=", ".join(trained), allowed=allowed)
    elsewhere = any(text.startswith(("data.root=", "data.name=")) for text in overrides)
    redrawn = [text for text in overrides if text.startswith(_REDRAWS)]
    if redrawn and not elsewhere:
        what = "another split of the same images would test on images that were trained on"
        fix = "leave it out, or name other images: data.root=DIR"
        raise InputError(what, got=", ".join(redrawn), fix=fix)
    recipe, checkpoint, dataset = _loaded(run, overrides)
    changed = any(text.startswith("data.") for text in overrides)
    if not changed and dataset.train.digest != checkpoint.identity.get("images", dataset.train.digest):
        what = (
            "the images have changed since the run was trained: some may now be tested on that were not then"
        )
        fix = "put them back, or name the images to score: data.root=DIR"
        raise InputError(what, where=recipe.data.root or recipe.data.name, fix=fix)
    return _evaluated(recipe, checkpoint, dataset, dataset.test)


def train_probabilities(run: Run, overrides: Sequence[str] = ()) -> TrainProbabilities:
    """The probability of each training image's label, without augmentation, with the loss's group means.

    The overrides say where the images are by now: ``data.root=DIR`` and the like.

    Raises:
        InputError: no checkpoint can be read, the loss has no group means, or the data have other classes.
    """
    recipe, checkpoint, dataset = _loaded(run, overrides)
    # Named rankR.PHASE.BUFFER.
    buffers = {
        name.split(".")[-1]: value for name, value in checkpoint.loss.items() if name.startswith("rank0.")
    }
    if "group_means" not in buffers:
        what, method = "the loss of this run has no group means", recipe.method.name
        raise InputError(what, where=run.path, got=method, allowed="ffds, d-ffds")
    means, class_group = (buffers[name].numpy() for name in ("group_means", "class_group"))
    _, predictions = _evaluated(recipe, checkpoint, dataset, dataset.train)
    return TrainProbabilities(
        probability=predictions.label_probability.astype(np.float64),
        group=class_group[predictions.label],
        group_means=means.astype(np.float64),
    )


def _loaded(run: Run, overrides: Sequence[str]) -> tuple[Recipe, Checkpoint, Dataset]:
    """The recipe of a run, its newest checkpoint, and data that have the classes it was trained on."""
    recipe = load_recipe(str(run.path / "recipe.yaml"), overrides).recipe
    checkpoint = Checkpoints(run.checkpoints).latest()
    if checkpoint is None:
        raise InputError("the run has no checkpoint yet", where=run.checkpoints)
    dataset = open_dataset(recipe.data)
    where, classes = recipe.data.root or recipe.data.name, len(checkpoint.identity["class_counts"])
    if dataset.num_classes != classes:
        got, allowed = f"{dataset.num_classes} classes", f"{classes} classes"
        what = "the data have other classes than the run was trained on"
        raise InputError(what, where=where, got=got, allowed=allowed)
    ours = list(dataset.class_names)
    trained = list(checkpoint.identity.get("class_names", ours))
    numbers = [str(label) for label in range(classes)]
    # Parquet files may have no names; numbers stand in their place.
    if numbers not in (ours, trained) and ours != trained:
        differing = [(own, other) for own, other in zip(ours, trained, strict=True) if own != other][:10]
        got, allowed = (", ".join(names) for names in zip(*differing, strict=True))
        what = "the data have other class names than the run was trained on, or in another order"
        raise InputError(what, where=where, got=got, allowed=allowed)
    return recipe, checkpoint, dataset


def _evaluated(recipe: Recipe, checkpoint: Checkpoint, dataset: Dataset, split: Split) -> Evaluated:
    fabric, classes, channels = launch_fabric(recipe.trainer), dataset.num_classes, split.images.shape[-1]
    untrained = recipe.model.model_copy(update={"pretrained": False})
    model = build_model(untrained, head=recipe.head, num_classes=classes, in_channels=channels, seed=0)
    try:
        model.load_state_dict(checkpoint.model)
    except RuntimeError as error:
        raise InputError("the checkpoint does not fit the network of its recipe", got=error) from error
    if recipe.trainer.channels_last:
        model.to(memory_format=torch.channels_last)
    network = fabric.setup_module(model)
    counts, batches = checkpoint.identity["class_counts"], eval_batches(fabric, split, recipe.data)
    with precision_flags(recipe.trainer):
        return evaluate(fabric, network, batches, counts, recipe.data.cut)
