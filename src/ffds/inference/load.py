"""A trained network taken from its run directory and put to work again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import nn

from ffds.data.dataset import Dataset
from ffds.data.open import open_dataset
from ffds.errors import InputError
from ffds.evaluation.measures import Scores
from ffds.models.build import Classifier, build_model
from ffds.recipes.load import load_recipe
from ffds.recipes.schema import Recipe
from ffds.run_directory import Run
from ffds.training.backend.devices import launch_fabric, precision_flags
from ffds.training.checkpoint import Checkpoint, Checkpoints
from ffds.training.evaluate import Predictions, eval_batches, evaluate

__all__ = ["TrainProbabilities", "evaluate_run", "train_probabilities"]

_REDRAWS = ("data.seed=", "data.test_fraction=", "data.validation=")


@dataclass(frozen=True)
class TrainProbabilities:
    """What a trained network says of the label of each training image.

    Attributes:
        probability: p of the label, (N,).
        group: group of the label, (N,).
        group_means: p̄ of each group over the last epoch, (M,).
    """

    probability: NDArray[np.float64]
    group: NDArray[np.int64]
    group_means: NDArray[np.float64]


def evaluate_run(run: Run, overrides: Sequence[str] = ()) -> tuple[Scores, Predictions]:
    """Scores of a run's newest checkpoint on its test set, or on that of other data.

    Args:
        run: a run directory, see `ffds.run_directory.open_run`.
        overrides: ``data.KEY=value`` and ``trainer.KEY=value`` that differ from the run's recipe; the
            classes must be the same ones.

    Raises:
        InputError: the run has no sound checkpoint, an override of what was trained, data with other
            classes, or a test set that may hold images that were trained on.
    """
    trained = [text for text in overrides if not text.startswith(("data.", "trainer."))]
    if trained:
        raise InputError(
            "a trained run cannot be changed",
            got=", ".join(trained),
            allowed="data.KEY=value, trainer.KEY=value",
        )
    elsewhere = any(text.startswith(("data.root=", "data.name=")) for text in overrides)
    redrawn = [text for text in overrides if text.startswith(_REDRAWS)]
    if redrawn and not elsewhere:
        raise InputError(
            "another split of the same images would test on images that were trained on",
            got=", ".join(redrawn),
            fix="leave it out, or name other images: data.root=DIR",
        )
    recipe = load_recipe(str(run.path / "recipe.yaml"), overrides).recipe
    checkpoint, dataset = _newest(run), open_dataset(recipe.data)
    fabric, network = _network(recipe, checkpoint, dataset)
    changed = any(text.startswith("data.") for text in overrides)
    if not changed and dataset.train.digest != checkpoint.identity.get("images", dataset.train.digest):
        raise InputError(
            "the images have changed since the run was trained: some may now be tested on that were not then",
            where=recipe.data.root or recipe.data.name,
            fix="put them back, or name the images to score: data.root=DIR",
        )
    batches, counts = eval_batches(fabric, dataset.test, recipe.data), checkpoint.identity["class_counts"]
    with precision_flags(recipe.trainer):
        return evaluate(fabric, network, batches, counts, recipe.data.cut)


def train_probabilities(run: Run, overrides: Sequence[str] = ()) -> TrainProbabilities:
    """P of the label of every training image, un-augmented, with the group statistics of the run's loss.

    Args:
        run: a run of FFDS or D-FFDS.
        overrides: ``data.root=DIR`` and the like, where the images lie elsewhere by now.

    Raises:
        InputError: the run has no sound checkpoint, its loss no group means, or its data other classes.
    """
    recipe = load_recipe(str(run.path / "recipe.yaml"), overrides).recipe
    checkpoint = _newest(run)
    means, class_group = (_loss_buffer(run, checkpoint, name) for name in ("group_means", "class_group"))
    dataset = open_dataset(recipe.data)
    fabric, network = _network(recipe, checkpoint, dataset)
    counts, batches = checkpoint.identity["class_counts"], eval_batches(fabric, dataset.train, recipe.data)
    with precision_flags(recipe.trainer):
        _, found = evaluate(fabric, network, batches, counts, recipe.data.cut)
    return TrainProbabilities(
        probability=found.label_probability.astype(np.float64),
        group=class_group[found.label],
        group_means=means.astype(np.float64),
    )


def _newest(run: Run) -> Checkpoint:
    checkpoint = Checkpoints(run.checkpoints).latest()
    if checkpoint is None:
        raise InputError("the run has no checkpoint yet", where=run.checkpoints)
    return checkpoint


def _network(recipe: Recipe, checkpoint: Checkpoint, dataset: Dataset) -> tuple[Fabric, nn.Module]:
    """The trained network, on its device."""
    classes = len(checkpoint.identity["class_counts"])
    if dataset.num_classes != classes:
        raise InputError(
            "the data have other classes than the run was trained on",
            where=recipe.data.root or recipe.data.name,
            got=f"{dataset.num_classes} classes",
            allowed=f"{classes} classes",
        )
    trained = checkpoint.identity.get("class_names", list(dataset.class_names))
    if list(dataset.class_names) != trained and not _are_numbers(trained, dataset.class_names):
        differing = [pair for pair in zip(dataset.class_names, trained, strict=True) if pair[0] != pair[1]]
        raise InputError(
            "the data have other class names than the run was trained on, or in another order",
            where=recipe.data.root or recipe.data.name,
            got=", ".join(own for own, _ in differing[:10]),
            allowed=", ".join(theirs for _, theirs in differing[:10]),
        )
    fabric = launch_fabric(recipe.trainer)
    model = build_model(
        recipe.model.model_copy(update={"pretrained": False}),
        head=recipe.head,
        num_classes=classes,
        in_channels=dataset.train.images.shape[-1],
        seed=0,
    )
    _load(model, checkpoint)
    if recipe.trainer.channels_last:
        model.to(memory_format=torch.channels_last)
    return fabric, fabric.setup_module(model)


def _are_numbers(*names: Sequence[str]) -> bool:
    """Whether one side has no names of its own, as Parquet files may not."""
    return any(list(side) == [str(label) for label in range(len(side))] for side in names)


def _loss_buffer(run: Run, checkpoint: Checkpoint, name: str) -> NDArray[Any]:
    for full_name, tensor in checkpoint.loss.items():
        if full_name.startswith("rank0.") and full_name.endswith(f".{name}"):
            return tensor.numpy()
    raise InputError(
        "the loss of this run has no group means",
        where=run.path,
        got=checkpoint.identity["recipe"]["method"]["name"],
        allowed="ffds, d-ffds",
    )


def _load(model: Classifier, checkpoint: Checkpoint) -> None:
    try:
        model.load_state_dict(checkpoint.model)
    except RuntimeError as error:
        raise InputError("the checkpoint does not fit the network of its recipe", got=error) from error
