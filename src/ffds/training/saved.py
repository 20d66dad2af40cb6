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
from ffds.evaluation.metrics import Scores
from ffds.models.build import Classifier, build_model
from ffds.recipes.load import load_recipe
from ffds.recipes.schema import Recipe
from ffds.runs import Run
from ffds.training.checkpoint import Checkpoint, Checkpoints
from ffds.training.evaluate import Predictions, evaluate
from ffds.training.launch import launched

__all__ = ["TrainProbabilities", "evaluate_run", "train_probabilities"]


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
        run: a run directory, see `ffds.runs.open_run`.
        overrides: ``data.KEY=value`` and ``trainer.KEY=value`` that differ from the run's recipe; the
            classes must be the same ones.

    Raises:
        InputError: the run has no sound checkpoint, an override of what was trained, or data with
            another number of classes.
    """
    trained = [text for text in overrides if not text.startswith(("data.", "trainer."))]
    if trained:
        raise InputError(
            "a trained run cannot be changed",
            got=", ".join(trained),
            allowed="data.KEY=value, trainer.KEY=value",
        )
    recipe = load_recipe(str(run.path / "recipe.yaml"), overrides).recipe
    checkpoint, dataset = _newest(run), open_dataset(recipe.data)
    fabric, network = _network(recipe, checkpoint, dataset)
    return evaluate(fabric, network, dataset.test, recipe.data, checkpoint.identity["class_counts"])


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
    counts = checkpoint.identity["class_counts"]
    _, found = evaluate(fabric, network, dataset.train, recipe.data, counts)
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
    fabric = launched(recipe.trainer)
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
