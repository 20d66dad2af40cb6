"""Which process works on which trial, so that no trial is lost and no two processes have the same one."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from ffds.files import held
from ffds.seeding import derived_seed
from ffds.sweep.space import Space
from ffds.sweep.study import counted

__all__ = ["claim", "give_back", "left", "revive", "worker"]


@contextmanager
def worker(directory: Path) -> Iterator[str]:
    """A name for this process that others can see is alive, until it ends in whatever way."""
    path = directory / f"worker-{uuid.uuid4().hex}.lock"
    lock = held(path)
    try:
        yield path.name
    finally:
        path.unlink(missing_ok=True)
        if lock is not None:
            lock.close()


def left(study: optuna.Study, trials: int) -> bool:
    """Whether a trial is left to begin.

    Args:
        study: the study.
        trials: how many it is to have.
    """
    known = counted(study)
    waiting = [place for place, trial in enumerate(known) if trial.state is TrialState.WAITING]
    return min([*waiting, len(known)]) < trials


def claim(study: optuna.Study, space: Space, seed: int, trials: int, worker: str) -> optuna.Trial | None:
    """Begin a trial: one that waits to be tried again, else a new one.

    Its draws depend on the seed, on its place among the trials and on their results, not on who draws.

    Args:
        study: held by this process, if others write to the same directory.
        space: where the trial chooses its point.
        seed: of the sweep.
        trials: how many the study is to have.
        worker: see `worker`.

    Returns:
        The trial, or None if all have been begun.
    """
    if not left(study, trials):
        return None
    trial = study.ask()
    trial.set_user_attr("worker", worker)
    place = sum(other.number < trial.number for other in counted(study))
    if place >= trials:  # a process on another machine was faster
        trial.set_user_attr("one_too_many", True)
        study.tell(trial, state=TrialState.FAIL)
        return None
    study.sampler = TPESampler(seed=derived_seed(seed, "sweep", place) % 2**32)
    space.suggest(trial)
    return trial


def give_back(study: optuna.Study, number: int) -> None:
    """Have the point of an unfinished trial tried again, before any new one."""
    trial = next(trial for trial in study.get_trials(deepcopy=False) if trial.number == number)
    # A point of which only a part was drawn is drawn again as a whole, and so comes out the same.
    point = trial.params if Space.is_point(trial.params) else trial.system_attrs.get("fixed_params", {})
    # From this line on the old trial does not count, whatever becomes of its state.
    study.enqueue_trial(point, user_attrs={"again": number})
    study.tell(number, state=TrialState.FAIL)


def revive(study: optuna.Study, directory: Path, *, alone: bool) -> None:
    """Give back the trials of processes that were killed.

    Args:
        study: held by this process.
        directory: of the sweep.
        alone: whether every process of the study has this directory; a trial begun by one that lived too
            short to leave its name is then a dead one's.
    """
    for trial in counted(study):
        if trial.state is TrialState.RUNNING:
            name = trial.user_attrs.get("worker")
            if _is_dead(directory / name) if name else alone:
                give_back(study, trial.number)
                if name:
                    (directory / name).unlink()


def _is_dead(worker: Path) -> bool:
    # Without a file it is a process of another machine, which alone can tell.
    lock = held(worker, make=False)
    if lock is None:
        return False
    lock.close()
    return True
