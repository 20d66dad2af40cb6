"""What one process does of the work that any number of processes share: whatever nobody else is doing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ffds.environment import is_first_rank
from ffds.errors import FfdsError, Interrupted
from ffds.jobs.claim import claimed
from ffds.jobs.journal import Journal
from ffds.jobs.plan import OpenData, Plan, Planned
from ffds.training.signals import StopSignals
from ffds.training.train import train_recipe

__all__ = ["Share"]

_SECONDS = 0.5
"""Between two looks at what other processes are doing."""


@dataclass(frozen=True)
class Share:
    """The share of this process in a plan.

    Attributes:
        out: directory of all runs.
        shown: whether to report progress on standard error.
        journal: which runs failed; nobody tries them again.
        training: entered while a run is trained.
        data: the images.
    """

    out: Path
    shown: bool = True
    journal: Journal = field(default_factory=Journal)
    training: Callable[[Planned], AbstractContextManager[object]] = lambda one: nullcontext()
    data: OpenData = field(default_factory=OpenData)

    def train(self, planned: Plan) -> None:
        """Train the first run that is free, until all are done or have failed, whoever has trained them.

        Raises:
            Interrupted: a signal came; the state is saved.
        """
        self.fail(planned.failures)
        left, waiting = list(planned.runs), False
        with StopSignals() as interruption:
            while left := self.unfinished(left):
                if interruption.requested is not None:
                    raise Interrupted(f"{interruption.requested.name}: the same command goes on")
                begun = next((one for one in left if self._begin(one)), None)
                if begun is not None:
                    left.remove(begun)
                else:
                    self._wait(left, told=waiting)
                waiting = begun is None

    def train_in_order(self, planned: Plan) -> None:
        """Train each run, on several ranks that have to do the same at the same time.

        What another process is training is a gap.

        Raises:
            Interrupted: a signal came; the state is saved.
        """
        self.fail(planned.failures)
        for one in planned.runs:
            if not one.run.done:
                with self._gap_if_it_fails(one):
                    self._train(one, one.branches)

    def unfinished(self, runs: Iterable[Planned]) -> list[Planned]:
        """Those that are neither done nor failed."""
        failed = self.journal.failures
        return [one for one in runs if one.run.path not in failed and not one.run.done]

    def fail(self, failures: Mapping[Path, FfdsError]) -> None:
        """Note what failed, and say it, each different reason once."""
        self.journal.fail(failures)
        reasons: dict[str, list[Path]] = {}
        for path, error in failures.items():
            reasons.setdefault(str(error), []).append(path)
        for reason, paths in reasons.items() if is_first_rank() else ():
            print(f"failed: {', '.join(map(str, paths))}: {reason}", file=sys.stderr, flush=True)

    def _begin(self, one: Planned) -> bool:
        """Train a run until it is done or fails, if it is free; whether it was."""
        with self._gap_if_it_fails(one), claimed(one) as claim:
            # A process of this command that began it and let go was killed: the command makes that a gap.
            if claim is None or one.run.path in self.journal.begun:
                return False
            self._train(one, claim.branches, claim.reached)
        return True

    @contextmanager
    def _gap_if_it_fails(self, one: Planned) -> Iterator[None]:
        try:
            yield
        except Interrupted:
            raise
        except FfdsError as error:
            self.fail({one.run.path: error})

    def _train(
        self,
        one: Planned,
        branches: Collection[int],
        after_epoch: Callable[[Mapping[str, Any]], None] = lambda entry: None,
    ) -> None:
        with self.training(one):
            train_recipe(
                one.recipe,
                out=self.out,
                shown=self.shown,
                dataset=self.data.open(one.recipe.data) if is_first_rank() else None,
                branches=branches,
                after_epoch=after_epoch,
            )

    def _wait(self, left: Sequence[Planned], *, told: bool) -> None:
        if self.shown and not told:
            places = ", ".join(one.place for one in left)
            print(f"waiting for what other processes train: {places}", file=sys.stderr, flush=True)
        time.sleep(_SECONDS)
