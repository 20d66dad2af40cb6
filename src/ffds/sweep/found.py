"""What a study has found: every trial, which is the best, and how much each setting matters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from ffds.data.dataset import Dataset
from ffds.recipes.schema import Recipe
from ffds.run_directory import Run
from ffds.sweep.recipe import with_settings
from ffds.sweep.space import Space
from ffds.sweep.study import counted

__all__ = ["ENOUGH", "Found", "Tried", "found", "tried"]

ENOUGH = 10
"""Finished trials from which the importance of a setting is worth a number."""

_RESULTS = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "stopped early",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


@dataclass(frozen=True)
class Tried:
    """One trial.

    Attributes:
        number: in the order they were begun; one that was interrupted goes on under a new number.
        result: finished, stopped early, failed, running or waiting.
        score: balanced accuracy on the validation images in percent, after the last epoch that has one.
        epoch: that epoch, counted from 1.
        settings: of FFDS; empty where none were chosen yet.
        run: its run directory, None without settings.
        cause: why it failed.
    """

    number: int
    result: str
    score: float | None
    epoch: int | None
    settings: dict[str, Any]
    run: Path | None
    cause: str = ""


@dataclass(frozen=True)
class Found:
    """All trials of a study.

    Attributes:
        study: its name.
        directory: where it lies.
        recipe: as it was asked for.
        validation: part of each training class held out.
        images: validation images.
        classes: classes that have any, of how many.
        trials: those that count, in order.
        importance: setting → part of the variance of the score that it explains (functional ANOVA); empty
            for fewer than `ENOUGH` finished trials, and where all have the same score.
    """

    study: str
    directory: Path
    recipe: Recipe
    validation: float
    images: int
    classes: tuple[int, int]
    trials: tuple[Tried, ...]
    importance: dict[str, float]

    @property
    def ranked(self) -> list[Tried]:
        """The finished trials, best first; of two with the same score the earlier one."""
        return sorted(self.having("finished"), key=lambda one: -(one.score or 0.0))

    @property
    def best(self) -> Tried | None:
        """The finished trial with the highest score, None without any."""
        return next(iter(self.ranked), None)

    def having(self, result: str) -> list[Tried]:
        """The trials with one result."""
        return [one for one in self.trials if one.result == result]

    @property
    def tally(self) -> str:
        """How many trials there are of each result, e.g. ``3 finished, 1 failed``."""
        counts = Counter(one.result for one in self.trials)
        return ", ".join(f"{counts[result]} {result}" for result in _RESULTS.values() if counts[result])

    def table(self, rows: int = 10) -> list[list[str]]:
        """Header and one row for each of the best trials, as text."""
        header = ["trial", "score", "β", "k", "M", "γ min", "γ max", "curve"]
        return [
            header,
            *(
                [str(one.number), f"{one.score:.2f}", *(_plain(value) for value in one.settings.values())]
                for one in self.ranked[:rows]
            ),
        ]

    @property
    def best_path(self) -> Path:
        """Where the best settings stand as a recipe."""
        return self.directory / f"{self.study}-best.yaml"

    def records(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        best = self.best
        return {
            "study": self.study,
            "recipe": self.recipe.name,
            "method": self.recipe.method.name,
            "validation_images": self.images,
            "best": None if best is None else _record(best) | {"recipe": str(self.best_path)},
            "importance": self.importance,
            "trials": [_record(one) for one in self.trials],
        }


def found(study: optuna.Study, own: Recipe, recipe: Recipe, dataset: Dataset, out: Path) -> Found:
    """What a study has found so far.

    Args:
        study: the study.
        own: the recipe as it was asked for.
        recipe: the same with a validation set.
        dataset: its images.
        out: directory of all runs.
    """
    labels = [] if dataset.validation is None else dataset.validation.labels.tolist()
    return Found(
        study=study.study_name,
        directory=out / recipe.name / "sweep",
        recipe=own,
        validation=recipe.data.validation,
        images=len(labels),
        classes=(len(set(labels)), dataset.num_classes),
        trials=tuple(tried(study, recipe, out)),
        importance=_importance(study),
    )


def tried(study: optuna.Study, recipe: Recipe, out: Path) -> Sequence[Tried]:
    """The trials of a study that count, in order."""
    return [_tried(trial, recipe, out) for trial in counted(study)]


def _tried(trial: FrozenTrial, recipe: Recipe, out: Path) -> Tried:
    settings = Space.settings(trial.params) if Space.is_point(trial.params) else {}
    epoch = trial.last_step
    return Tried(
        number=trial.number,
        result=_RESULTS[trial.state],
        score=None if epoch is None else trial.intermediate_values[epoch],
        epoch=epoch,
        settings=settings,
        run=Run.of(with_settings(recipe, settings), out).path if settings else None,
        cause=trial.user_attrs.get("cause", ""),
    )


def _importance(study: optuna.Study) -> dict[str, float]:
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(finished) < ENOUGH or len({trial.value for trial in finished}) == 1:
        return {}
    return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))


def _record(one: Tried) -> dict[str, Any]:
    return {
        "number": one.number,
        "result": one.result,
        "score": one.score,
        "epoch": one.epoch,
        "settings": one.settings,
        "run": None if one.run is None else str(one.run),
        "cause": one.cause,
    }


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
