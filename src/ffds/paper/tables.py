"""A filled table as text: for a terminal, in Markdown, in LaTeX and as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from ffds.errors import FfdsError
from ffds.files import write_text
from ffds.paper.table_plan import Plan, Wanted
from ffds.reports.formatting import MISSING, Spread, markdown_table
from ffds.reports.run_records import Identity, Measured, deciding, identity, provenance

__all__ = [
    "Cell",
    "Failure",
    "Filled",
    "caption",
    "filled",
    "footnotes",
    "latex",
    "markdown",
    "records",
    "rows",
    "runs_rows",
    "tidy_csv",
    "write_table",
]


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


_TITLES = ("n", "accuracy", "paper", "difference", "best on test")


def rows(table: Filled, column: str) -> list[list[str]]:
    """Header and rows of one column of the paper's table: measured, the paper's number, the difference."""
    body = [
        [
            cell.row,
            str(len(cell.seeds)),
            cell.shown,
            _number(cell.paper),
            _signed(cell.difference),
            str(cell.best),
        ]
        for cell in table.columns[column]
    ]
    return [[table.plan.rows, *_TITLES], *body]


def caption(table: Filled) -> str:
    """What the numbers are."""
    plan = table.plan
    length = (
        "as many epochs as published"
        if plan.protocol == "full"
        else "not the published length; every schedule is scaled to it"
    )
    kept = deciding(text for text in plan.overrides if not text.startswith("data.root="))
    settings = ", ".join(text for text in plan.overrides if text in kept)
    changed = f" Settings on top of the recipes: {settings}." if settings else ""
    return (
        f"Table {plan.name}, {plan.title}. Protocol {plan.protocol}: {length}.{changed} {plan.note} "
        "Test accuracy in percent, mean ± sample standard deviation over n seeds. The last epoch is the "
        "result, and the difference is that result less the paper's number. Best on test is the highest of "
        "all epochs, chosen on the test set, as the paper's released code does."
    )


def footnotes(table: Filled) -> list[str]:
    """What failed and why, then where the numbers were measured, each place with its commands."""
    failures = [f"Failed: {path}: {str(error).splitlines()[0]}" for path, _, error in table.failures]
    return [*failures, *provenance(table.sources)]


def markdown(table: Filled) -> str:
    """The whole table with its caption, failures and provenance."""
    parts = [f"# Table {table.plan.name}: {table.plan.title}", caption(table)]
    for column in table.columns:
        parts += [f"## {column}", markdown_table(rows(table, column))]
    return "\n\n".join([*parts, *footnotes(table)]) + "\n"


def latex(table: Filled) -> str:
    """The table in the paper's own layout, for the package booktabs.

    Four lines a row: measured with the number of seeds, the paper's number, the difference, best on test.
    """
    columns = table.columns
    lines = [
        f"% {caption(table)}",
        *(f"% {note}" for note in footnotes(table)),
        rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
        r"\toprule",
        _latex_line(table.plan.rows, map(_latex_words, columns)),
        r"\midrule",
    ]
    for cells in zip(*columns.values(), strict=True):
        lines += _latex_row(cells)
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def records(table: Filled) -> list[dict[str, Any]]:
    """One entry a cell, for a program; numbers to four places, None where there is none."""
    plan = table.plan
    return [
        {
            "table": plan.name,
            "protocol": plan.protocol,
            "column": cell.column,
            "row": cell.row,
            "n": len(cell.seeds),
            "seeds": list(cell.seeds),
            "accuracy_mean": _rounded(cell.last.mean),
            "accuracy_std": _rounded(cell.last.std),
            "paper": cell.paper,
            "difference": _rounded(cell.difference),
            "best_on_test_mean": _rounded(cell.best.mean),
            "best_on_test_std": _rounded(cell.best.std),
            "failed": cell.failed,
        }
        for cell in table.cells
    ]


def tidy_csv(table: Filled) -> str:
    """One line a cell; what is missing is an empty field."""
    lines = records(table)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(line | {"seeds": " ".join(map(str, line["seeds"]))} for line in lines)
    return text.getvalue()


def write_table(table: Filled, directory: Path) -> list[Path]:
    """Write ``table-NAME.md``, ``.tex`` and ``.csv``.

    Args:
        table: filled.
        directory: made if it is not there.

    Returns:
        The three paths.
    """
    directory.mkdir(parents=True, exist_ok=True)
    texts = {"md": markdown(table), "tex": latex(table), "csv": tidy_csv(table)}
    paths = [directory / f"table-{table.plan.name}.{ending}" for ending in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_text(path, text)
    return paths


def runs_rows(lines: Iterable[Measured]) -> list[list[str]]:
    """Header and one row a run, in the columns that fit a terminal; ``runs.csv`` has all of them."""
    header = ["recipe", "method", "settings", "seed", "protocol", "last", "best", "tail"]
    body = [
        [
            *(run.recipe, run.method, run.settings, str(run.seed), run.protocol),
            *map(_number, (run.accuracy_last, run.best_on_test, run.tail)),
        ]
        for run in lines
    ]
    return [header, *body]


def _latex_row(cells: Sequence[Cell]) -> Iterator[str]:
    measured = (
        f"{_latex_spread(cell.last)} ({len(cell.seeds)})" if cell.seeds else _latex_text(cell.shown)
        for cell in cells
    )
    yield _latex_line(_latex_words(cells[0].row), measured)
    yield _latex_line(r"\quad paper", (_latex_text(_number(cell.paper)) for cell in cells))
    yield _latex_line(r"\quad difference", (_latex_text(_signed(cell.difference)) for cell in cells))
    yield _latex_line(r"\quad best on test", (_latex_spread(cell.best) for cell in cells))


def _latex_line(title: str, columns: Iterable[str]) -> str:
    return f"{' & '.join([title, *columns])} \\\\"


def _latex_words(text: str) -> str:
    """A title as it stands; a recipe's own name may hold what LaTeX takes for a command."""
    return re.sub(r"[&%$#_{}]", r"\\\g<0>", text)


def _latex_spread(spread: Spread) -> str:
    text = str(spread).replace("±", r"\pm")
    return f"${text}$" if spread.values else "---"


def _latex_text(text: str) -> str:
    return "---" if text == MISSING else f"${text}$" if text[0] in "+-" else text


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _signed(value: float | None) -> str:
    return MISSING if value is None else f"{value:+.2f}"
