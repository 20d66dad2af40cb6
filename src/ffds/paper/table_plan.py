"""The runs that each table of the paper needs, and the paper's number for each cell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ffds.data.sources.registry import titled
from ffds.errors import InputError
from ffds.paper.reference import COLUMN_TITLES, METHOD_TITLES, TABLE_1A, TABLE_1B, TABLE_1C, TABLE_2B
from ffds.recipes.load import planned_recipe
from ffds.recipes.schema import Recipe
from ffds.reports.run_records import protocol

__all__ = ["TABLES", "Definition", "PlannedCell", "PlannedTable", "planned_table"]


@dataclass(frozen=True)
class PlannedCell:
    """One cell before it is filled: titles of its row and column, the run it needs, the paper's accuracy."""

    row: str
    column: str
    recipe: Recipe
    paper: float | None


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
class PlannedTable:
    """A table before it is filled: its cells column by column, and the one protocol of its runs.

    `overrides` are the settings on top of every recipe, as on a command line.
    """

    name: str
    definition: Definition
    overrides: tuple[str, ...]
    cells: tuple[PlannedCell, ...]
    protocol: str


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
    name: str,
    *,
    columns: Sequence[str] = (),
    methods: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> PlannedTable:
    """The runs behind a table of the paper.

    Args:
        name: one of `TABLES`.
        columns: recipes; none: the paper's.
        methods: rows of Table 1a; none: all eleven.
        overrides: ``key=value`` on top of every recipe; the table's own settings win over them.

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
    cells = tuple(
        _planned_cell(
            row, column, planned_recipe(column, [*overrides, *settings], method=method), table.paper
        )
        for column in dict.fromkeys(columns or table.paper)
        for row, (method, settings) in variants.items()
    )
    return PlannedTable(name, table, tuple(overrides), cells, _one_protocol(cells))


def _planned_cell(
    row: str, column: str, recipe: Recipe, paper: Mapping[str, Mapping[str, float]]
) -> PlannedCell:
    title = COLUMN_TITLES.get(column, column)
    heading = titled(recipe.data.name, title)
    # The paper has no number for images that only look like its own.
    number = paper.get(column, {}).get(row) if heading == title else None
    return PlannedCell(METHOD_TITLES.get(row, row), heading, recipe, number)


def _one_protocol(cells: Iterable[PlannedCell]) -> str:
    protocols = {protocol(cell.recipe): cell.column for cell in cells}
    if len(protocols) > 1:
        raise InputError(
            "a table holds one protocol",
            got="; ".join(f"{name} for {column}" for name, column in protocols.items()),
            fix="name columns of the same length with --columns, or leave schedule.epochs out",
        )
    return next(iter(protocols))
