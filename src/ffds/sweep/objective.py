"""One trial: a run of its own, judged on validation images after each scored epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna

from ffds.data.dataset import Dataset
from ffds.recipes.schedule import start_epoch
from ffds.recipes.schema import Recipe
from ffds.run_directory import Run
from ffds.training.train import train_recipe

__all__ = ["Objective", "balanced_accuracy"]


def balanced_accuracy(validation: Mapping[str, Any]) -> float:
    """Mean of the accuracy of each class, in percent, over the classes that have validation images.

    >>> balanced_accuracy({"accuracy": 90.0, "per_class": [100.0, 50.0, None]})
    75.0
    """
    return fmean(accuracy for accuracy in validation["per_class"] if accuracy is not None)


class Objective:
    """Trains a trial's recipe and reports its score, epoch by epoch.

    All it reads of an epoch is its validation entry.

    Args:
        trial: told the score of each epoch; may ask to stop.
        recipe: with the trial's settings.
        dataset: its images.
        out: directory of all runs.
        seen: called with epoch and score of each epoch of this session.
    """

    def __init__(
        self,
        trial: optuna.Trial,
        recipe: Recipe,
        dataset: Dataset,
        out: str | Path,
        seen: Callable[[int, float | None], None] = lambda epoch, score: None,
    ) -> None:
        self._trial, self._recipe, self._dataset, self._out, self._seen = trial, recipe, dataset, out, seen
        self._start = start_epoch(recipe.method, recipe.schedule.epochs)
        self._scores: dict[int, float] = {}
        self.run = Run.of(recipe, out)

    def __call__(self) -> float:
        """The score after the last epoch.

        Raises:
            TrialPruned: the trial need not go on.
            NonFiniteLossError: loss or gradient became NaN or infinite.
            Interrupted: a signal came; the state is saved.
        """
        # What an earlier session of this run showed decides as it would have then.
        self._report()
        train_recipe(
            self._recipe,
            out=self._out,
            shown=False,
            dataset=self._dataset,
            branches=[self._start] if self._start else [],
            after_epoch=self._after_epoch,
        )
        self._report()
        return self._scores[self._recipe.schedule.epochs]

    @property
    def in_common(self) -> bool:
        """Whether the run has not left the epochs that all trials have in common."""
        return len(self.run.metrics) < self._start

    def _after_epoch(self, entry: Mapping[str, Any]) -> None:
        self._report()
        self._seen(entry["epoch"], self._scores.get(entry["epoch"]))

    def _report(self) -> None:
        for entry in self.run.metrics:
            epoch = entry["epoch"]
            if epoch > self._start and epoch not in self._scores and entry["validation"] is not None:
                self._scores[epoch] = balanced_accuracy(entry["validation"])
                self._trial.report(self._scores[epoch], epoch)
                if epoch < self._recipe.schedule.epochs and self._trial.should_prune():
                    raise optuna.TrialPruned
