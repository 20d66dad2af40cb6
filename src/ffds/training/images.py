"""Whether a finished run was trained on the images that are there now."""

from __future__ import annotations

from ffds.data.dataset import Dataset
from ffds.errors import InputError
from ffds.runs import Run
from ffds.training.checkpoint import Checkpoints

__all__ = ["refuse_other_images"]


def refuse_other_images(run: Run, dataset: Dataset) -> None:
    """Stop where a run is done, on other training images than those of its recipe now.

    A run that is not done is refused by its checkpoints, where it goes on from one.

    Raises:
        InputError: its results say nothing of these images.
    """
    trained = Checkpoints(run.checkpoints).newest_images() if run.done else None
    if trained not in (None, dataset.train.digest):
        raise InputError(
            "the run is done, but on other images than are there now",
            where=run.path,
            got=f"images {dataset.train.digest} now, {trained} then",
            fix="put the images back, or give the run of the new ones another recipe name or --out DIR",
        )
