"""The right to train a run, so that any number of processes train each stretch of epochs once.

A stretch ends where runs part, or where a run ends. Whoever trains it holds a lock named by the history at
its end; the lock ends with the process, and so nobody waits for the dead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

from ffds.files import is_locked
from ffds.jobs.plan import Planned
from ffds.run_directory import Run
from ffds.training.trajectory import Trajectory

__all__ = ["Claim", "claimed"]


class Claim:
    """What this process alone trains: a run, and the stretches on its way that others wait for.

    Attributes:
        branches: epochs after which others go on from this run.
    """

    def __init__(self) -> None:
        self.branches: tuple[int, ...] = ()
        self._rights: dict[int, IO[str]] = {}

    def take(self, trajectory: Trajectory, epoch: int) -> bool:
        """Whether the right to train up to an epoch could be had."""
        right = trajectory.lock(epoch)
        if right is not None:
            self._rights[epoch] = right
        return right is not None

    def reached(self, entry: Mapping[str, Any]) -> None:
        """Let others go on from where the run is.

        Args:
            entry: metrics of the epoch that was saved.
        """
        for epoch in [epoch for epoch in self._rights if epoch <= entry["epoch"]]:
            self._rights.pop(epoch).close()

    def end(self) -> None:
        """Give all of it back."""
        while self._rights:
            self._rights.popitem()[1].close()


@contextmanager
def claimed(one: Planned) -> Iterator[Claim | None]:
    """The claim on a run, held while entered.

    Args:
        one: a run of a plan.

    Yields:
        None if there is nothing to claim now: another process trains the run or epochs that it goes on from,
        or the run is done.

    Raises:
        InputError: there can be no locks in the directory of the runs.
    """
    claim = Claim()
    try:
        if _is_free(one, claim):
            yield claim
        else:
            # A part of what is needed must not keep others from it.
            claim.end()
            yield None
    finally:
        claim.end()


def _is_free(one: Planned, claim: Claim) -> bool:
    trajectory = one.trajectory
    if trajectory is None or one.run.done:
        return False
    # In the order of the epochs, so that of two processes the one that is ahead gets all it needs.
    wanted = sorted({*_ahead(one, trajectory), trajectory.epochs})
    if not all(claim.take(trajectory, epoch) for epoch in wanted):
        return False
    # What was there may have changed until this process had the right to it.
    claim.branches = _ahead(one, trajectory)
    return not one.run.done and not _is_trained_alone(one.run)


def _ahead(one: Planned, trajectory: Trajectory) -> tuple[int, ...]:
    """Epochs that the run has yet to reach, after which others go on from it, or it from others."""
    own = one.newest_epoch()
    there = max((epoch for epoch in one.branches if trajectory.has(epoch)), default=0)
    return tuple(sorted(epoch for epoch in one.branches if epoch > max(own, there)))


def _is_trained_alone(run: Run) -> bool:
    """Whether a process that shares nothing, such as `ffds train`, is at the run."""
    return is_locked(run.path / "lock")
