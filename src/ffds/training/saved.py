"""A trained network taken from its run directory and put to work again."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ffds.data.open import open_dataset
from ffds.errors import InputError
from ffds.evaluation.metrics import Scores
from ffds.models.build import Classifier, build_model
from ffds.recipes.load import load_recipe
from ffds.runs import Run
from ffds.training.checkpoint import Checkpoint, Checkpoints
from ffds.training.evaluate import Predictions, evaluate
from ffds.training.launch import launched

__all__ = ["evaluate_run"]


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
    checkpoint = Checkpoints(run.checkpoints).latest()
    if checkpoint is None:
        raise InputError("the run has no checkpoint yet", where=run.checkpoints)
    counts: list[int] = checkpoint.identity["class_counts"]
    dataset = open_dataset(recipe.data)
    if dataset.num_classes != len(counts):
        raise InputError(
            "the data have other classes than the run was trained on",
            where=recipe.data.root or recipe.data.name,
            got=f"{dataset.num_classes} classes",
            allowed=f"{len(counts)} classes",
        )
    fabric = launched(recipe.trainer)
    model = build_model(
        recipe.model.model_copy(update={"pretrained": False}),
        head=recipe.head,
        num_classes=len(counts),
        in_channels=dataset.train.images.shape[-1],
        seed=0,
    )
    _load(model, checkpoint)
    if recipe.trainer.channels_last:
        model.to(memory_format=torch.channels_last)
    return evaluate(fabric, fabric.setup_module(model), dataset.test, recipe.data, counts)


def _load(model: Classifier, checkpoint: Checkpoint) -> None:
    try:
        model.load_state_dict(checkpoint.model)
    except RuntimeError as error:
        raise InputError("the checkpoint does not fit the network of its recipe", got=error) from error
