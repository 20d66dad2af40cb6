"""The cells of a table: measured accuracies beside the paper's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from ffds.errors import FfdsError
from ffds.paper.identity import Identity, identity
from ffds.paper.measured import Measured
from ffds.paper.wanted import Plan, Wanted
from ffds.spread import Spread

__all__ = ["Cell", "Failure", "Filled", "filled"]


@dataclass(frozen=True)
class Cell:
    """What was measured for one cell of a table.

    Attributes:
        row: its title.
        column: its title.
        seeds: the seeds that were measured.
        last: accuracy after the last epoch, one for each seed: the result.
        best: highest test accuracy of an epoch, chosen on the test set.
        paper: the paper's number, None where it has none.
        failed: whether a training for it failed.
    """

    row: str
    column: str
    seeds: tuple[int, ...]
    last: Spread
    best: Spread
    paper: float | None
    failed: bool

    @property
    def difference(self) -> float | None:
        """Measured after the last epoch, less the paper's number."""
        return None if self.last.mean is None or self.paper is None else self.last.mean - self.paper

    @property
    def shown(self) -> str:
        """The result as text: missing and failed are told apart."""
        return "failed" if self.failed and not self.seeds else str(self.last)


class Failure(NamedTuple):
    """A training that has no result: its run directory, what it was to measure, and the cause."""

    path: Path
    identity: Identity
    error: FfdsError


@dataclass(frozen=True)
class Filled:
    """A table with everything that was measured for it.

    Attributes:
        plan: what it was to hold.
        cells: in the order of the plan, column by column.
        sources: the runs its numbers come from.
        failures: the trainings that failed.
    """

    plan: Plan
    cells: tuple[Cell, ...]
    sources: tuple[Measured, ...]
    failures: tuple[Failure, ...]

    @property
    def columns(self) -> dict[str, list[Cell]]:
        """The cells of each column, by its title."""
        titles = dict.fromkeys(cell.column for cell in self.cells)
        return {title: [cell for cell in self.cells if cell.column == title] for title in titles}


def filled(
    plan: Plan,
    lines: Iterable[Measured],
    *,
    seeds: Sequence[int] | None = None,
    failures: Sequence[Failure] = (),
) -> Filled:
    """A table from measured runs.

    A run fills a cell if recipe, method, settings and length agree; where it was measured does not matter. Of
    two runs with the same seed the later line counts.

    Args:
        plan: what the table is to hold.
        lines: measured runs, also those of other tables.
        seeds: the seeds to take; None: all there are.
        failures: trainings that gave no result.
    """
    found: dict[Identity, dict[int, Measured]] = {}
    for line in lines:
        if seeds is None or line.seed in seeds:
            found.setdefault(line.identity, {})[line.seed] = line
    failed = {failure.identity for failure in failures}
    cells, sources = [], {}
    for wanted in plan.cells:
        key = identity(wanted.recipe)
        runs = dict(sorted(found.get(key, {}).items()))
        cells.append(_cell(wanted, runs, key in failed))
        sources[key] = list(runs.values())
    return Filled(plan, tuple(cells), tuple(chain.from_iterable(sources.values())), tuple(failures))


def _cell(wanted: Wanted, runs: Mapping[int, Measured], failed: bool) -> Cell:
    best = (run.best_on_test for run in runs.values())
    return Cell(
        row=wanted.row,
        column=wanted.column,
        seeds=tuple(runs),
        last=Spread(tuple(run.accuracy_last for run in runs.values())),
        best=Spread(tuple(value for value in best if value is not None)),
        paper=wanted.paper,
        failed=failed,
    )
