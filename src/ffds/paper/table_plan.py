"""Which runs each table of the paper needs, and what the paper has in their place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ffds.data.sources.registry import titled
from ffds.errors import InputError
from ffds.paper.reference import COLUMN_TITLES, METHOD_TITLES, TABLE_1A, TABLE_1B, TABLE_1C, TABLE_2B
from ffds.recipes.load import planned_recipe
from ffds.recipes.schema import Recipe
from ffds.reports.run_records import protocol

__all__ = ["TABLES", "Plan", "Wanted", "planned_table"]

TABLES = ("1a", "1b", "1c", "2b")
"""Tables by their number in the paper; 2b is the ablation in the legend of that figure."""


@dataclass(frozen=True)
class Wanted:
    """One cell before it is filled.

    Attributes:
        row: its title.
        column: its title.
        recipe: the run it needs, with any seed.
        paper: the paper's accuracy in percent, None where it has none.
    """

    row: str
    column: str
    recipe: Recipe
    paper: float | None


@dataclass(frozen=True)
class Plan:
    """A table before it is filled.

    Attributes:
        name: its number in the paper.
        title: what it compares.
        rows: what a row is.
        note: what a reader must know of the rows.
        overrides: settings on top of every recipe, as on a command line.
        cells: column by column.
        protocol: the one protocol of its runs.
    """

    name: str
    title: str
    rows: str
    note: str
    overrides: tuple[str, ...]
    cells: tuple[Wanted, ...]
    protocol: str


@dataclass(frozen=True)
class _Ablation:
    """Variants of D-FFDS, by the title of their row, and the paper's accuracies by recipe and row."""

    title: str
    rows: str
    note: str
    variants: Mapping[str, tuple[str, ...]]
    paper: Mapping[str, Mapping[str, float]]


_NO_SMOOTHING = ("method.k=0.0",)
_SAME_FOCUS = ("method.gamma_min=1.0", "method.gamma_max=1.0")

_ABLATIONS = {
    "1b": _Ablation(
        "number of class groups",
        "M",
        "D-FFDS with M groups; all other settings are the recipe's.",
        {groups: (f"method.num_groups={groups}",) for groups in ("1", "5", "10", "50")},
        TABLE_1B,
    ),
    "1c": _Ablation(
        "the two modules",
        "modules",
        "The base is deferred CB-FL, trained as D-FFDS with k = 0 and γ = 1 for every class. Label smoothing "
        "stays in all rows, so that they differ in the named modules only.",
        {
            "neither": (*_NO_SMOOTHING, *_SAME_FOCUS),
            "FreqFocus": _NO_SMOOTHING,
            "DynaSmooth": _SAME_FOCUS,
            "both": (),
        },
        TABLE_1C,
    ),
    "2b": _Ablation(
        "curves of FreqFocus",
        "curve",
        "D-FFDS with γ along each curve; the paper has its numbers in the legend of Figure 2b.",
        {curve: (f"method.curve={curve}",) for curve in ("concave", "convex", "linear")},
        TABLE_2B,
    ),
}


def planned_table(
    name: str,
    *,
    columns: Sequence[str] = (),
    methods: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> Plan:
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
    if name == "1a":
        title, rows = "every method on every dataset", "method"
        note = "CE to FFDS train in one phase, LDAM-DRW to D-FFDS in two."
        cells = _methods(columns or tuple(COLUMN_TITLES), methods or tuple(METHOD_TITLES), overrides)
    elif name not in _ABLATIONS:
        raise InputError(f"the paper has no table {name}", allowed=", ".join(TABLES))
    elif methods:
        raise InputError(f"every row of table {name} is D-FFDS", got=f"methods {', '.join(methods)}")
    else:
        ablation = _ABLATIONS[name]
        title, rows, note = ablation.title, ablation.rows, ablation.note
        cells = _variants(ablation, columns or tuple(ablation.paper), overrides)
    return Plan(name, title, rows, note, tuple(overrides), cells, _one_protocol(cells))


def _methods(columns: Iterable[str], methods: Sequence[str], overrides: Sequence[str]) -> tuple[Wanted, ...]:
    return tuple(
        _wanted(METHOD_TITLES.get(method, method), column, recipe, paper)
        for column in dict.fromkeys(columns)
        for method in dict.fromkeys(methods)
        for recipe in [planned_recipe(column, overrides, method=method)]
        for paper in [TABLE_1A.get(column, {}).get(method)]
    )


def _variants(ablation: _Ablation, columns: Iterable[str], overrides: Sequence[str]) -> tuple[Wanted, ...]:
    return tuple(
        _wanted(row, column, recipe, paper)
        for column in dict.fromkeys(columns)
        for row, settings in ablation.variants.items()
        for recipe in [planned_recipe(column, [*overrides, *settings], method="d-ffds")]
        for paper in [ablation.paper.get(column, {}).get(row)]
    )


def _wanted(row: str, column: str, recipe: Recipe, paper: float | None) -> Wanted:
    title = COLUMN_TITLES.get(column, column)
    heading = titled(recipe.data.name, title)
    # The paper has no number for images that only look like its own.
    return Wanted(row, heading, recipe, paper if heading == title else None)


def _one_protocol(cells: Iterable[Wanted]) -> str:
    found = {protocol(cell.recipe): cell.column for cell in cells}
    if len(found) > 1:
        raise InputError(
            "a table holds one protocol",
            got="; ".join(f"{name} for {column}" for name, column in found.items()),
            fix="name columns of the same length with --columns, or leave schedule.epochs out",
        )
    return next(iter(found))
