"""The sweep: Optuna is asked for trials and told their scores here; they train here or on a Dask cluster."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
from optuna.trial import TrialState

from ffds.data.content import knowing_images
from ffds.data.dataset import Dataset
from ffds.data.open import open_dataset
from ffds.errors import FfdsError, InputError, Interrupted, NonFiniteLossError, note
from ffds.files import make_directory, try_lock
from ffds.jobs.cluster import Cluster, Ended
from ffds.jobs.engine import train_stretch
from ffds.jobs.options import ALONE, Jobs
from ffds.jobs.plan import Stretch
from ffds.recipes.schedule import start_epoch
from ffds.recipes.schema import Recipe
from ffds.run_directory import Run
from ffds.sweep.results import UNFINISHED, SweepResult, Trial, sweep_result
from ffds.sweep.space import Space, searched_method, searched_recipe, with_settings, with_validation
from ffds.sweep.study import checked_name, identity, next_trial, open_study, reachable, study_name
from ffds.training.phases import phases
from ffds.training.signals import StopSignals
from ffds.training.trajectory import Trajectory

__all__ = ["Objective", "balanced_accuracy", "sweep"]


def sweep(
    recipe: str,
    overrides: Sequence[str] = (),
    *,
    trials: int = 50,
    study: str | None = None,
    storage: str | None = None,
    out: str | Path = "runs",
    jobs: Jobs = ALONE,
    shown: bool = True,
) -> SweepResult:
    """Search the settings of FFDS over the paper's space, on validation images held out of the training set.

    The score of a trial is its balanced accuracy on the validation images after the last epoch. The first
    trial has the recipe's own settings, the others are chosen by TPE. The epochs before the trials part are
    trained once. The same call goes on where it stopped.

    Args:
        recipe: name of a shipped recipe, or path of a file.
        overrides: ``key=value`` on top of it; ``data.validation`` is 0.1 where the recipe has 0.
        trials: of the study as a whole, at least 1.
        study: its name; None: one that belongs to these settings and images.
        storage: an Optuna URL; None: a journal file in ``OUT/RECIPE/sweep``.
        out: directory of all runs.
        jobs: how many trials at a time. What TPE learns from then depends on which of them end first.
        shown: whether to report the plan and each trial on standard error.

    Raises:
        InputError: these cannot be used, the study is another search, or another command works on it.
        Interrupted: SIGTERM or SIGINT; the same call goes on.
        NonFiniteLossError: training fails in the epochs that all trials have in common.
    """
    if trials < 1:
        raise InputError("a sweep needs a trial", where="--trials", got=trials, allowed="1 or more")
    own = knowing_images(searched_recipe(recipe, overrides))
    jobs.check([own])
    held_out = with_validation(own)
    dataset = open_dataset(held_out.data)
    phases(held_out, dataset.class_counts)  # it refuses settings that do not fit the classes
    method = searched_method(held_out)
    space = Space.around(method, dataset.num_classes)
    same = identity(held_out, dataset, space)
    name = study_name(held_out, same) if study is None else checked_name(study)
    directory = make_directory(Path(out) / own.name / "sweep", "the directory of the sweep")
    lock = try_lock(directory / f"{name}.lock")
    if lock is None:
        fix = "wait for it or stop it; --jobs N and --scheduler train several trials at a time"
        raise InputError("another command works on this study", where=directory / name, fix=fix)
    with lock, reachable():
        opened = open_study(name, storage, directory, same, space.point(method))
        search = _Search(own, held_out, dataset, space, opened, Path(out), trials, shown)
        search.say(search.plan())
        if jobs.on_dask:
            search.train_on_dask(jobs)
        else:
            search.train_here()
        return search.result()


def balanced_accuracy(validation: Mapping[str, Any]) -> float:
    """Mean of the accuracy of each class, in percent, over the classes that have validation images.

    >>> balanced_accuracy({"accuracy": 90.0, "per_class": [100.0, 50.0, None]})
    75.0
    """
    return fmean(accuracy for accuracy in validation["per_class"] if accuracy is not None)


class Objective:
    """The run of a trial, whose score is reported epoch by epoch.

    The trial may ask to stop. All that is read of an epoch is its validation entry.
    """

    def __init__(self, trial: optuna.Trial, recipe: Recipe, out: str | Path) -> None:
        self.trial, self.recipe, self.run = trial, recipe, Run.of(recipe, out)
        self._start = start_epoch(recipe.method, recipe.schedule.epochs)
        self._scores: dict[int, float] = {}

    def report(self) -> None:
        """Tell the trial the scores that are new in the run directory; TrialPruned if it need not go on."""
        for entry in self.run.metrics:
            epoch = entry["epoch"]
            if epoch > self._start and epoch not in self._scores and entry["validation"] is not None:
                self._scores[epoch] = balanced_accuracy(entry["validation"])
                self.trial.report(self._scores[epoch], epoch)
                if epoch < self.recipe.epochs and self.trial.should_prune():
                    raise optuna.TrialPruned

    @property
    def score(self) -> float:
        """The score after the last epoch that was trained: `trainer.patience` may stop before all are."""
        return self._scores[max(self._scores)]

    @property
    def in_common(self) -> bool:
        """Whether the run has not left the epochs that all trials have in common, as far as can be read."""
        try:
            return len(self.run.metrics) < self._start
        except InputError:
            return False


@dataclass(frozen=True)
class _Search:
    """One sweep: `own` is the recipe as it was asked for, `recipe` the same with a validation set."""

    own: Recipe
    recipe: Recipe
    dataset: Dataset
    space: Space
    study: optuna.Study
    out: Path
    trials: int
    shown: bool

    def train_here(self) -> None:
        """Train one trial after the other in this process."""
        with StopSignals() as signals:
            while (objective := self._next()) is not None:
                self._train(objective)
                if signals.requested is not None:
                    raise Interrupted(f"{signals.requested.name}: the same command goes on with the sweep")

    def train_on_dask(self, jobs: Jobs) -> None:
        """Train as many trials at a time as the cluster has room for; the epochs in common come first."""
        with StopSignals() as signals, Cluster(jobs, signals, shown=self.shown) as cluster:
            common: Stretch | None = None
            training: dict[Stretch, Objective | None] = {}

            def fill() -> None:
                nonlocal common
                while len(training) < cluster.slots and (objective := self._next()) is not None:
                    recipe, run = objective.recipe, objective.run
                    if common is None and not self._has_common_epochs():
                        self.say(f"training the first {self.start} epochs, which all trials share")
                        common = Stretch(recipe, run, self.start, self._branches)
                        cluster.submit(common)
                    stretch = Stretch(recipe, run, recipe.epochs, self._branches, common)
                    cluster.submit(stretch)
                    training[stretch] = objective

            fill()
            for stretch, message in cluster.messages():
                objective = training.get(stretch)
                if objective is not None and not self._goes_on(objective):
                    cluster.stop(stretch)
                    training[stretch] = objective = None
                if isinstance(message, Ended):
                    if objective is not None or stretch is common:  # of a stopped trial all is told
                        self._end(objective, message)
                    training.pop(stretch, None)
                    if signals.requested is None:
                        fill()

    def result(self) -> SweepResult:
        """What the study has found so far."""
        return sweep_result(self.study, self.own, self.recipe, self.dataset, self.out)

    def say(self, message: object) -> None:
        """Print on standard error."""
        if self.shown:
            note(str(message))

    def plan(self) -> str:
        """What is going to happen, in words."""
        result, epochs = self.result(), self.recipe.epochs
        begun = [one for one in result.trials if one.result != "waiting"]
        left = max(self.trials - len(begun), 0)
        share = f", the first {self.start} trained once for all" if self.start else ""
        images = f"{result.images} validation images of {result.classes[0]} of {result.classes[1]} classes"
        return f"""\
sweep of {self.recipe.name} {self.recipe.method.name}: {left} of {self.trials} trials to train
  study:    {result.study}
  so far:   {result.tally if begun else "nothing"}
  a trial:  {epochs} epochs{share}; then at most {left * (epochs - self.start)} to train
  score:    balanced accuracy after the last epoch on {images}, held out of training
  searched: {self.space}
  test set: not used"""

    @property
    def start(self) -> int:
        """Epochs that all trials have in common."""
        return start_epoch(self.recipe.method, self.recipe.schedule.epochs)

    @property
    def _branches(self) -> frozenset[int]:
        return frozenset({self.start} - {0})

    def _has_common_epochs(self) -> bool:
        """Whether there are none to train."""
        plan = phases(self.recipe, self.dataset.class_counts)
        return not self.start or Trajectory.of(self.recipe, self.dataset, plan, self.out).has(self.start)

    def _next(self) -> Objective | None:
        """Begin a trial, if one is left that an earlier session of its run does not stop."""
        directory, seed = self.out / self.recipe.name / "sweep", self.recipe.trainer.seed
        while (trial := next_trial(self.study, self.space, seed, self.trials, directory)) is not None:
            recipe = with_settings(self.recipe, self.space.settings(trial.params))
            if self._goes_on(objective := Objective(trial, recipe, self.out)):
                return objective
        return None

    def _train(self, objective: Objective) -> None:
        """Train a trial here."""
        try:
            train_stretch(
                objective.recipe,
                self.out,
                branches=self._branches,
                shown=self.shown and sys.stderr.isatty(),
                dataset=self.dataset,
                after_epoch=lambda entry: objective.report(),
            )
            objective.report()  # what another process trained meanwhile
        except optuna.TrialPruned:
            self._tell(objective, TrialState.PRUNED)
        except Interrupted:
            raise
        except FfdsError as error:
            if objective.in_common:
                raise
            self._fail(objective, error)
        else:
            self._tell(objective, TrialState.COMPLETE)

    def _goes_on(self, objective: Objective) -> bool:
        """Report what is new of a trial, and tell that it is stopped early, or has failed, if it has."""
        try:
            objective.report()
        except optuna.TrialPruned:
            self._tell(objective, TrialState.PRUNED)
        except InputError as error:
            self._fail(objective, error)
        else:
            return True
        return False

    def _end(self, objective: Objective | None, ended: Ended) -> None:
        """Tell how the process of a trial, or else of the epochs in common, ended."""
        if ended.code not in (0, Interrupted.exit_code):
            if objective is None:
                raise ended.error
            self._fail(objective, ended.error)
        elif ended.code == 0 and objective is not None:
            self._tell(objective, TrialState.COMPLETE)

    def _fail(self, objective: Objective, error: FfdsError) -> None:
        """Note why a trial failed; where its settings are not the cause, the next command tries it again."""
        diverged = isinstance(error, NonFiniteLossError)
        cause = str(error).partition("\n")[0] if diverged else " ".join(str(error).split())
        objective.trial.set_user_attr("cause", cause)
        if diverged:
            self._tell(objective, TrialState.FAIL)
        else:
            self.say(f"trial {objective.trial.number}: {UNFINISHED}: {cause}")

    def _tell(self, objective: Objective, state: TrialState) -> None:
        score = objective.score if state is TrialState.COMPLETE else None
        self.say(Trial.of(self.study.tell(objective.trial, score, state), self.recipe, self.out))
