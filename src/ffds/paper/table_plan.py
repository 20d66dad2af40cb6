"""The tables of the paper: the runs that each needs, the paper's numbers, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from ffds.data.content import knowing_images_if_there
from ffds.data.sources.registry import titled
from ffds.errors import FfdsError, InputError
from ffds.paper.reference import COLUMN_TITLES, METHOD_TITLES, TABLE_1A, TABLE_1B, TABLE_1C, TABLE_2B
from ffds.recipes.load import planned_recipe
from ffds.recipes.schema import Recipe
from ffds.reports.formatting import Spread
from ffds.reports.run_records import Identity, RunRecord, protocol

__all__ = ["TABLES", "Cell", "Definition", "Failure", "Table", "planned_table"]


@dataclass(frozen=True)
class Cell:
    """A cell of a table: the recipe of its runs, the paper's accuracy, and what was measured.

    Attributes:
        paper: None where the paper has no number.
        runs: the measured runs, sorted by seed.
        failed: whether a training for it failed.
    """

    row: str
    column: str
    recipe: Recipe
    paper: float | None
    runs: tuple[RunRecord, ...] = ()
    failed: bool = False

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that were measured."""
        return tuple(run.seed for run in self.runs)

    @property
    def last(self) -> Spread:
        """Accuracy after the last epoch: the result."""
        return Spread(tuple(run.accuracy_last for run in self.runs))

    @property
    def best(self) -> Spread:
        """Highest test accuracy of an epoch, chosen on the test set."""
        return Spread(tuple(run.best_on_test for run in self.runs if run.best_on_test is not None))

    @property
    def difference(self) -> float | None:
        """Measured after the last epoch, less the paper's number."""
        return None if self.last.mean is None or self.paper is None else self.last.mean - self.paper

    @property
    def shown(self) -> str:
        """The result as text; a failed training differs from a missing one."""
        return "failed" if self.failed and not self.runs else str(self.last)


class Failure(NamedTuple):
    """A training without a result: its run directory, the experiment it belongs to, and the cause."""

    path: Path
    identity: Identity
    error: FfdsError


@dataclass(frozen=True)
class Definition:
    """What a table of the paper compares.

    Attributes:
        note: what a reader must know about the rows.
        variants: row → the method it trains and the settings it changes.
        paper: recipe → row → the paper's accuracy.
    """

    title: str
    row_heading: str
    note: str
    variants: Mapping[str, tuple[str, tuple[str, ...]]]
    paper: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Table:
    """A table with what was measured for it, at first nothing.

    Attributes:
        overrides: settings on top of every recipe, as on a command line.
        protocol: the length of all its runs, see `ffds.reports.run_records.protocol`.
        cells: column by column.
    """

    name: str
    definition: Definition
    overrides: tuple[str, ...]
    protocol: str
    cells: tuple[Cell, ...]
    failures: tuple[Failure, ...] = ()

    @property
    def columns(self) -> dict[str, list[Cell]]:
        """The cells of each column, by its title."""
        titles = dict.fromkeys(cell.column for cell in self.cells)
        return {title: [cell for cell in self.cells if cell.column == title] for title in titles}

    @property
    def sources(self) -> list[RunRecord]:
        """The runs that its numbers come from, each once."""
        return list({id(run): run for cell in self.cells for run in cell.runs}.values())


_NO_SMOOTHING = ("method.k=0.0",)
_SAME_FOCUS = ("method.gamma_min=1.0", "method.gamma_max=1.0")

_DEFINITIONS = {
    "1a": Definition(
        "every method on every dataset",
        "method",
        "CE to FFDS train in one phase, LDAM-DRW to D-FFDS in two.",
        {method: (method, ()) for method in METHOD_TITLES},
        TABLE_1A,
    ),
    "1b": Definition(
        "number of class groups",
        "M",
        "D-FFDS with M groups; all other settings are the recipe's.",
        {groups: ("d-ffds", (f"method.num_groups={groups}",)) for groups in ("1", "5", "10", "50")},
        TABLE_1B,
    ),
    "1c": Definition(
        "the two modules",
        "modules",
        "The base is deferred CB-FL, trained as D-FFDS with k = 0 and γ = 1 for every class. Label smoothing "
        "stays in all rows, so that they differ in the named modules only.",
        {
            "neither": ("d-ffds", (*_NO_SMOOTHING, *_SAME_FOCUS)),
            "FreqFocus": ("d-ffds", _NO_SMOOTHING),
            "DynaSmooth": ("d-ffds", _SAME_FOCUS),
            "both": ("d-ffds", ()),
        },
        TABLE_1C,
    ),
    "2b": Definition(
        "curves of FreqFocus",
        "curve",
        "D-FFDS with γ along each curve; the paper has its numbers in the legend of Figure 2b.",
        {curve: ("d-ffds", (f"method.curve={curve}",)) for curve in ("concave", "convex", "linear")},
        TABLE_2B,
    ),
}

TABLES = tuple(_DEFINITIONS)
"""Tables by their number in the paper; 2b is the ablation in the legend of that figure."""


def planned_table(
    name: str, *, columns: Sequence[str] = (), methods: Sequence[str] = (), overrides: Sequence[str] = ()
) -> Table:
    """A table of the paper with nothing measured yet.

    `columns` are recipes, without any the paper's; `methods` are rows of Table 1a, without any all eleven.
    The table's own settings win over the `overrides`.

    Raises:
        InputError: an unknown table, recipe, method or setting, methods for another table than 1a, or
            columns of different protocols.

    >>> plan = planned_table("1c")
    >>> [(cell.row, cell.column, cell.paper) for cell in plan.cells][:2]
    [('neither', 'CIFAR-100-LT, IF 100', 41.8), ('FreqFocus', 'CIFAR-100-LT, IF 100', 42.43)]
    """
    if name not in _DEFINITIONS:
        raise InputError(f"the paper has no table {name}", allowed=", ".join(TABLES))
    if methods and name != "1a":
        raise InputError(f"every row of table {name} is D-FFDS", got=f"methods {', '.join(methods)}")
    table = _DEFINITIONS[name]
    variants = {method: (method, ()) for method in methods} or table.variants
    cells = []
    for column in dict.fromkeys(columns or table.paper):
        title = COLUMN_TITLES.get(column, column)
        for row, (method, settings) in variants.items():
            recipe = planned_recipe(column, [*overrides, *settings], method=method)
            heading = titled(recipe.data.name, title)
            # The paper has no number for images that only look like its own.
            paper = table.paper.get(column, {}).get(row) if heading == title else None
            cells.append(Cell(METHOD_TITLES.get(row, row), heading, recipe, paper))
    recipes = knowing_images_if_there([cell.recipe for cell in cells])
    cells = [replace(cell, recipe=recipe) for cell, recipe in zip(cells, recipes, strict=True)]
    protocols = {protocol(cell.recipe): cell.column for cell in cells}
    if len(protocols) > 1:
        got = "; ".join(f"{length} for {column}" for length, column in protocols.items())
        fix = "name columns of the same length with --columns, or leave schedule.epochs out"
        raise InputError("a table holds one protocol", got=got, fix=fix)
    return Table(name, table, tuple(overrides), next(iter(protocols)), tuple(cells))
