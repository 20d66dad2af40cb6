"""Sweeps without training: a run's scores are a formula of its settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ffds.errors import Interrupted, NonFiniteLossError
from ffds.recipes.schema import Recipe
from ffds.run_directory import Run
from ffds.sweep.results import SweepResult
from ffds.sweep.search import sweep
from tests.training import tiny

SETTINGS = ("schedule.epochs=8", "method.start=0.5", "model.name=resnet8")
START, EPOCHS = 4, 8
CLASSES = 10


def score(recipe: Recipe, epoch: int) -> float:
    """Rises with the epochs; best at k = 0.3 and M = 5, and never the same for two settings."""
    method: Any = recipe.method
    height = 60 - 40 * abs(method.k - 0.3) - 3 * abs(method.num_groups - 5) + method.gamma_max / 10
    return float(height * (1 - math.exp(-epoch / 3)))


class Trainer:
    """In place of `train_stretch`.

    Args:
        interrupt: raises `Interrupted` after this many epochs, all runs together; the epoch counts.
        diverges: whether training a recipe fails at its last epoch.
    """

    def __init__(
        self,
        interrupt: float = math.inf,
        diverges: Callable[[Recipe, int], bool] = lambda recipe, epoch: False,
    ) -> None:
        self.left, self.diverges = interrupt, diverges
        self.trained: list[int] = []

    def __call__(
        self,
        recipe: Recipe,
        out: Path,
        *,
        after_epoch: Callable[[Mapping[str, Any]], None],
        **_: Any,
    ) -> None:
        run = Run.of(recipe, out)
        if run.done:
            return
        with run.locked():
            run.start(recipe, {})
            for epoch in range(len(run.metrics) + 1, recipe.schedule.epochs + 1):
                if self.diverges(recipe, epoch):
                    raise NonFiniteLossError(f"loss is not finite in epoch {epoch}\n  diagnosis: none")
                per_class = [score(recipe, epoch)] * (CLASSES - 1) + [None]
                entry = {"epoch": epoch, "test": None, "validation": {"per_class": per_class}}
                run.add_epoch(entry)
                self.trained.append(epoch)
                after_epoch(entry)
                self.left -= 1
                if self.left <= 0:
                    raise Interrupted("SIGTERM")
            run.finish({})


def use(patch: pytest.MonkeyPatch, trainer: Trainer | None = None) -> Trainer:
    """Have sweeps train by formula, on tiny images."""
    trainer = trainer or Trainer()
    images(patch)
    patch.setattr("ffds.sweep.search.train_stretch", trainer)
    return trainer


def images(patch: pytest.MonkeyPatch) -> None:
    """Have sweeps open the tiny images."""
    opened = tiny.dataset(validation=True)
    patch.setattr("ffds.sweep.search.open_dataset", lambda data: opened)


def swept(out: Path, *overrides: str, trials: int = 9, shown: bool = False, **how: Any) -> SweepResult:
    """A sweep of the digits."""
    return sweep("digits", [*SETTINGS, *overrides], trials=trials, out=out, shown=shown, **how)


def outcome(result: SweepResult) -> list[tuple[Any, ...]]:
    """All that must be equal between two sweeps that are the same; numbers count interruptions too."""
    return [(one.result, one.score, one.epoch, one.settings, one.cause) for one in result.trials]
