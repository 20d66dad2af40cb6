"""What a sweep has found: every trial, which is the best, and how much each setting matters."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from ffds.data.dataset import Dataset
from ffds.files import write_text
from ffds.recipes.load import dump_recipe
from ffds.recipes.schema import Recipe
from ffds.run_directory import Run
from ffds.sweep.space import Space, with_settings
from ffds.sweep.study import counted

__all__ = ["MIN_TRIALS_FOR_IMPORTANCE", "UNFINISHED", "SweepResult", "Trial", "sweep_result"]

MIN_TRIALS_FOR_IMPORTANCE = 10
"""Finished trials from which the importance of a setting is worth a number."""

UNFINISHED = "unfinished"
"""Result of a trial that ended without a score though its settings were not the cause."""

_RESULTS = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "stopped early",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


@dataclass(frozen=True)
class Trial:
    """One trial; one that was interrupted goes on under a new number.

    `result` is finished, stopped early, failed, unfinished, running or waiting; the same command tries an
    unfinished trial again. `score` is the balanced accuracy on the validation images in percent after
    `epoch`, the last one that has any. `settings` are those of FFDS, empty where none were chosen yet; then
    there is no `run` directory either.

    >>> print(Trial(3, "stopped early", 40.0, 140, {"k": 0.5, "num_groups": 5}, None))
    trial 3: k=0.5 num_groups=5: 40.00 after epoch 140, stopped early
    """

    number: int
    result: str
    score: float | None
    epoch: int | None
    settings: dict[str, Any]
    run: Path | None
    cause: str = ""

    @classmethod
    def of(cls, trial: FrozenTrial, recipe: Recipe, out: Path) -> Trial:
        """The trial of a study, with its run of a recipe below a directory."""
        settings, epoch = Space.settings(trial.params), trial.last_step
        cause = trial.user_attrs.get("cause", "")
        unfinished = cause and trial.state is TrialState.RUNNING
        return cls(
            number=trial.number,
            result=UNFINISHED if unfinished else _RESULTS[trial.state],
            score=None if epoch is None else trial.intermediate_values[epoch],
            epoch=epoch,
            settings=settings,
            run=Run.of(with_settings(recipe, settings), out).path if settings else None,
            cause=cause,
        )

    def __str__(self) -> str:
        settings = " ".join(f"{key}={value}" for key, value in self.settings.items())
        score = "" if self.score is None else f"{self.score:.2f} after epoch {self.epoch}, "
        cause = f": {self.cause}" if self.cause else ""
        return f"trial {self.number}: {settings}: {score}{self.result}{cause}"

    def record(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return asdict(self) | {"run": None if self.run is None else str(self.run)}


@dataclass(frozen=True)
class SweepResult:
    """All trials of a study of a recipe, as it was asked for.

    `validation` is the part of each training class held out: `images` in number, of `classes` classes that
    have any, of how many. `importance` has for each setting the part of the variance of the score that it
    explains (functional ANOVA), from `MIN_TRIALS_FOR_IMPORTANCE` finished trials of different scores on.
    """

    study: str
    directory: Path
    recipe: Recipe
    validation: float
    images: int
    classes: tuple[int, int]
    trials: tuple[Trial, ...]
    importance: dict[str, float]

    @property
    def ranked(self) -> list[Trial]:
        """The finished trials, best first; of two with the same score the earlier one."""
        return sorted(self.having("finished"), key=lambda one: -(one.score or 0.0))

    @property
    def best(self) -> Trial | None:
        """The finished trial with the highest score, None without any."""
        return next(iter(self.ranked), None)

    def having(self, result: str) -> list[Trial]:
        """The trials with one result."""
        return [one for one in self.trials if one.result == result]

    @property
    def tally(self) -> str:
        """How many trials there are of each result, e.g. ``3 finished, 1 failed``."""
        counts = Counter(one.result for one in self.trials)
        return ", ".join(
            f"{counts[result]} {result}" for result in (*_RESULTS.values(), UNFINISHED) if counts[result]
        )

    def table(self, rows: int = 10) -> list[list[str]]:
        """Header and one row for each of the best trials, as text."""
        table = [["trial", "score", "β", "k", "M", "γ min", "γ max", "curve"]]
        for one in self.ranked[:rows]:
            settings = (
                f"{value:g}" if isinstance(value, float) else value for value in one.settings.values()
            )
            table.append([str(one.number), f"{one.score:.2f}", *map(str, settings)])
        return table

    @property
    def best_path(self) -> Path:
        """Where the best settings stand as a recipe."""
        return self.directory / f"{self.study}-best.yaml"

    def write_best(self) -> bool:
        """Write the best settings as a recipe, without the sweep's validation set; whether there are any."""
        best = self.best
        if best is None:
            return False
        recipe, (with_images, classes) = with_settings(self.recipe, best.settings), self.classes
        header = f"""\
# {recipe.name}, {recipe.method.name}: the best settings of a sweep
#
# Found by  ffds sweep, study {self.study}: trial {best.number} of {len(self.trials)}
#           ({self.tally})
# Score     {best.score:.2f} percent: balanced accuracy after epoch {best.epoch} on {self.images}
#           images of {with_images} of {classes} classes, the data's own validation set or else held out
#           (data.validation={self.validation:g}). The highest of many scores is a lucky one.
# Seeds     trainer.seed {recipe.trainer.seed}, data.seed {recipe.data.seed}
# Test set  not used
# Command   ffds train {self.best_path.name}

"""
        write_text(self.best_path, header + dump_recipe(recipe))
        return True

    def records(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        best = self.best
        return {
            "study": self.study,
            "recipe": self.recipe.name,
            "method": self.recipe.method.name,
            "validation_images": self.images,
            "best": None if best is None else best.record() | {"recipe": str(self.best_path)},
            "importance": self.importance,
            "trials": [one.record() for one in self.trials],
        }


def sweep_result(
    study: optuna.Study, own: Recipe, recipe: Recipe, dataset: Dataset, out: Path
) -> SweepResult:
    """What a study has found so far for a recipe, given as it was asked for and with a validation set."""
    labels = [] if dataset.validation is None else dataset.validation.labels.tolist()
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    importance: dict[str, float] = {}
    if len(finished) >= MIN_TRIALS_FOR_IMPORTANCE and len({trial.value for trial in finished}) > 1:
        importance = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return SweepResult(
        study=study.study_name,
        directory=out / recipe.name / "sweep",
        recipe=own,
        validation=recipe.data.validation,
        images=len(labels),
        classes=(len(set(labels)), dataset.num_classes),
        trials=tuple(Trial.of(trial, recipe, out) for trial in counted(study)),
        importance=importance,
    )
