"""Trial after trial, in any number of processes, until the study has as many as it is to have."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import optuna
from optuna.trial import TrialState

from ffds.data.dataset import Dataset
from ffds.data.open import open_dataset
from ffds.errors import FfdsError, InputError, Interrupted, NonFiniteLossError
from ffds.files import made_directory, waited
from ffds.jobs.jobs import ALONE, Jobs
from ffds.jobs.journal import Journal
from ffds.jobs.workers import Workers, how_it_ended
from ffds.recipes.schedule import start_epoch
from ffds.recipes.schema import Recipe
from ffds.sweep.claims import claim, give_back, left, revive, worker
from ffds.sweep.found import Found, Tried, found, tried
from ffds.sweep.identity import identity, study_name
from ffds.sweep.objective import Objective
from ffds.sweep.progress import SweepProgress
from ffds.sweep.recipe import searched_method, searched_recipe, with_settings, with_validation
from ffds.sweep.space import Space
from ffds.sweep.study import checked_name, open_study
from ffds.training.phases import phases
from ffds.training.signals import StopSignals
from ffds.training.trajectory import Trajectory

__all__ = ["Search", "sweep"]

_SECONDS = 0.5
"""Between two looks at what another process is doing."""


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
) -> Found:
    """Search the settings of FFDS over the paper's space, on validation images held out of the training set.

    The score of a trial is its balanced accuracy on the validation images after the last epoch. The first
    trial has the recipe's own settings, the others are chosen by TPE. The epochs before the trials part are
    trained once. The same call goes on where it stopped; any number of processes may make it at once.

    Args:
        recipe: name of a shipped recipe, or path of a file.
        overrides: ``key=value`` on top of it; ``data.validation`` is 0.1 where the recipe has 0.
        trials: of the study as a whole, finished, stopped early and failed ones together, at least 1.
        study: its name; None: one that belongs to these settings and images.
        storage: an Optuna URL; None: a journal file in ``OUT/RECIPE/sweep``.
        out: directory of all runs.
        jobs: how many trials at a time. What TPE learns from then depends on which of them end first.
        shown: whether to report the plan and each trial on standard error.

    Returns:
        All trials, and the best settings.

    Raises:
        InputError: recipe, data, storage or jobs cannot be used, or the study is another search.
        Interrupted: SIGTERM or SIGINT; the same call goes on.
        NonFiniteLossError: training fails in the epochs that all trials have in common.
    """
    if trials < 1:
        raise InputError("a sweep needs a trial", where="--trials", got=trials, allowed="1 or more")
    own = searched_recipe(recipe, overrides)
    jobs.check([own])
    search = Search.prepared(own, study, storage, out, shown=shown)
    search.progress.plan(search.found(), search.space, trials)
    if jobs.in_own_processes:
        order = {"recipe": recipe, "overrides": list(overrides), "study": study, "storage": storage}
        search.have_worked(order | {"shown": shown}, trials, jobs)
    else:
        search.work(trials)
    return search.found()


@dataclass(frozen=True)
class Search:
    """One process of a sweep.

    Attributes:
        own: the recipe as it was asked for.
        recipe: the same with a validation set.
        dataset: its images.
        space: where settings are searched.
        study: the trials.
        out: directory of all runs.
        alone: whether every process of the study writes to this directory.
        progress: what a person sees.
    """

    own: Recipe
    recipe: Recipe
    dataset: Dataset
    space: Space
    study: optuna.Study
    out: Path
    alone: bool
    progress: SweepProgress

    @classmethod
    def prepared(
        cls, own: Recipe, study: str | None, storage: str | None, out: str | Path, *, shown: bool = True
    ) -> Search:
        """Open the data and the study."""
        recipe = with_validation(own)
        dataset = open_dataset(recipe.data)
        # It refuses settings that do not fit the classes.
        phases(recipe, dataset.class_counts)
        method = searched_method(recipe)
        space = Space.around(method, dataset.num_classes)
        same = identity(recipe, dataset, space)
        name = study_name(recipe, same) if study is None else checked_name(study)
        directory = made_directory(Path(out) / recipe.name / "sweep", "the directory of the sweep")
        with waited(directory / f"{name}.lock"):
            opened = open_study(name, storage, directory, same, space.point(method))
        progress = SweepProgress(shown=shown)
        return cls(own, recipe, dataset, space, opened, Path(out), storage is None, progress)

    @property
    def directory(self) -> Path:
        """Where the study, its best recipe and its plots lie."""
        return self.out / self.recipe.name / "sweep"

    def work(self, trials: int) -> None:
        """Train trials until the study has had as many."""
        with worker(self.directory) as name, StopSignals() as interruption:
            while self._left(trials):
                with self._shared_epochs(interruption) or nullcontext() as right:
                    with self._study_alone():
                        trial = claim(self.study, self.space, self.recipe.trainer.seed, trials, name)
                    if trial is not None:
                        self._train(trial, right)
                _stop_if_asked(interruption)

    def have_worked(self, order: Mapping[str, Any], trials: int, jobs: Jobs) -> None:
        """Have other processes train trials until the study has had as many.

        Args:
            order: of each process, but for what is known here.
            trials: of the study as a whole.
            jobs: how many processes, where.
        """
        with TemporaryDirectory(prefix="ffds-") as directory:
            file = Path(directory) / "journal.jsonl"
            order = {**order, "out": str(self.out), "trials": trials, "journal": str(file)}
            environments = jobs.environments(min(jobs.count, trials))
            orders = [order] * len(environments)
            with (
                StopSignals() as interruption,
                Workers("ffds.sweep.worker", orders, environments, Path(directory)) as workers,
            ):
                codes = [code for _, code in workers.ended(interruption)]
            if self._left(trials):
                _stop_if_asked(interruption)
                raise _why_unfinished(codes, Journal(file))

    def found(self) -> Found:
        """What the study has found so far."""
        return found(self.study, self.own, self.recipe, self.dataset, self.out)

    def _one(self, number: int) -> Tried:
        return next(one for one in tried(self.study, self.recipe, self.out) if one.number == number)

    def _left(self, trials: int) -> bool:
        with self._study_alone():
            return left(self.study, trials)

    @contextmanager
    def _study_alone(self) -> Iterator[None]:
        """Hold the study, so far as this directory goes, without trials of the dead."""
        with waited(self.directory / f"{self.study.study_name}.lock"):
            revive(self.study, self.directory, alone=self.alone)
            yield

    def _train(self, trial: optuna.Trial, right: IO[str] | None) -> None:
        recipe = with_settings(self.recipe, self.space.settings(trial.params))
        epochs = recipe.schedule.epochs
        start = start_epoch(recipe.method, epochs)

        def seen(epoch: int, score: float | None) -> None:
            if right is not None and epoch >= start:
                right.close()
            self.progress.epoch(trial.number, epoch, epochs, score)

        objective = Objective(trial, recipe, self.dataset, self.out, seen)
        try:
            with self.progress:
                self.study.tell(trial, objective())
        except optuna.TrialPruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        except NonFiniteLossError as error:
            if objective.in_common:
                give_back(self.study, trial.number)
                raise
            trial.set_user_attr("cause", str(error).partition("\n")[0])
            self.study.tell(trial, state=TrialState.FAIL)
        except BaseException:
            give_back(self.study, trial.number)
            raise
        self.progress.trial(self._one(trial.number))

    def _shared_epochs(self, interruption: StopSignals) -> IO[str] | None:
        """Wait until the epochs that all trials share are there, or hold the right to train them."""
        start = start_epoch(self.recipe.method, self.recipe.schedule.epochs)
        trajectory = Trajectory.of(
            self.recipe, self.dataset, phases(self.recipe, self.dataset.class_counts), self.out
        )
        waiting = False
        while not trajectory.has(start):
            right = trajectory.lock(start)
            if right is not None and not trajectory.has(start):
                self.progress.say(f"training the first {start} epochs, which all trials share")
                return right
            if right is not None:
                right.close()
            elif not waiting:
                self.progress.say(f"waiting for another process to train the first {start} epochs")
                waiting = True
            _stop_if_asked(interruption)
            time.sleep(_SECONDS)
        return None


def _stop_if_asked(interruption: StopSignals) -> None:
    if interruption.requested is not None:
        raise Interrupted(f"{interruption.requested.name}: the same command goes on with the sweep")


def _why_unfinished(codes: Sequence[int], journal: Journal) -> FfdsError:
    if journal.failures:
        return next(iter(journal.failures.values()))
    if Interrupted.exit_code in codes:
        return Interrupted("a process was interrupted: the same command goes on with the sweep")
    ends = ", ".join(how_it_ended(code) for code in codes)
    return FfdsError(f"no process is left to go on, one {ends}: the same command goes on with the sweep")
