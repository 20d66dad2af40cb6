"""A table of the paper filled with measured runs, as text: for a terminal, in Markdown, LaTeX and CSV."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ffds.errors import FfdsError
from ffds.files import csv_text, write_text
from ffds.paper.table_plan import PlannedTable
from ffds.reports.formatting import MISSING, Spread, markdown_table, provenance
from ffds.reports.run_records import Identity, RunRecord, deciding_settings, identity

__all__ = [
    "Cell",
    "Failure",
    "FilledTable",
    "caption",
    "cell_records",
    "filled_table",
    "footnotes",
    "latex",
    "markdown",
    "rows",
    "runs_rows",
    "table_csv",
    "write_table",
]


@dataclass(frozen=True)
class Cell:
    """What was measured for one cell of a table.

    Attributes:
        runs: the measured runs, sorted by seed.
        paper: the paper's number, None where it has none.
        failed: whether a training for it failed.
    """

    row: str
    column: str
    runs: tuple[RunRecord, ...]
    paper: float | None
    failed: bool

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
class FilledTable:
    """A table with everything that was measured for it; its cells are in the order of the plan."""

    plan: PlannedTable
    cells: tuple[Cell, ...]
    failures: tuple[Failure, ...]

    @property
    def columns(self) -> dict[str, list[Cell]]:
        """The cells of each column, by its title."""
        titles = dict.fromkeys(cell.column for cell in self.cells)
        return {title: [cell for cell in self.cells if cell.column == title] for title in titles}

    @property
    def sources(self) -> list[RunRecord]:
        """The runs that its numbers come from, each once."""
        return list({id(run): run for cell in self.cells for run in cell.runs}.values())


def filled_table(
    plan: PlannedTable,
    records: Iterable[RunRecord],
    *,
    seeds: Sequence[int] | None = None,
    failures: Sequence[Failure] = (),
) -> FilledTable:
    """A table from measured runs.

    A run fills a cell if recipe, method, settings and length agree; where it was measured does not matter. Of
    two runs with the same seed the later record counts.

    Args:
        plan: what the table is to hold.
        records: measured runs, also those of other tables.
        seeds: the seeds to take; None: all there are.
        failures: trainings without a result.
    """
    by_identity: dict[Identity, dict[int, RunRecord]] = {}
    for record in records:
        if seeds is None or record.seed in seeds:
            by_identity.setdefault(record.identity, {})[record.seed] = record
    failed = {failure.identity for failure in failures}
    cells = []
    for planned in plan.cells:
        key = identity(planned.recipe)
        runs = tuple(run for _, run in sorted(by_identity.get(key, {}).items()))
        cells.append(Cell(planned.row, planned.column, runs, planned.paper, key in failed))
    return FilledTable(plan, tuple(cells), tuple(failures))


def rows(table: FilledTable, column: str) -> list[list[str]]:
    """Header and rows of one column of the paper's table: measured, the paper's number, the difference."""
    lines = [[table.plan.definition.row_heading, "n", "accuracy", "paper", "difference", "best on test"]]
    for cell in table.columns[column]:
        numbers = _number(cell.paper), _number(cell.difference, "+.2f"), str(cell.best)
        lines.append([cell.row, str(len(cell.seeds)), cell.shown, *numbers])
    return lines


def caption(table: FilledTable) -> str:
    """What the numbers are."""
    plan, what = table.plan, table.plan.definition
    length = (
        "as many epochs as published"
        if plan.protocol == "full"
        else "not the published length; every schedule is scaled to it"
    )
    kept = deciding_settings(text for text in plan.overrides if not text.startswith("data.root="))
    settings = ", ".join(text for text in plan.overrides if text in kept)
    changed = f" Settings on top of the recipes: {settings}." if settings else ""
    return (
        f"Table {plan.name}, {what.title}. Protocol {plan.protocol}: {length}.{changed} {what.note} "
        "Test accuracy in percent, mean ± sample standard deviation over n seeds. The last epoch is the "
        "result, and the difference is that result less the paper's number. Best on test is the highest of "
        "all epochs, chosen on the test set, as the paper's released code does."
    )


def footnotes(table: FilledTable) -> list[str]:
    """What failed and why, then where the numbers were measured, each place with its commands."""
    failures = [f"Failed: {path}: {str(error).splitlines()[0]}" for path, _, error in table.failures]
    return [*failures, *provenance(run.source for run in table.sources)]


def markdown(table: FilledTable) -> str:
    """The whole table with its caption, failures and provenance."""
    parts = [f"# Table {table.plan.name}: {table.plan.definition.title}", caption(table)]
    for column in table.columns:
        parts += [f"## {column}", markdown_table(rows(table, column))]
    return "\n\n".join([*parts, *footnotes(table)]) + "\n"


def latex(table: FilledTable) -> str:
    """The table in the paper's own layout, for the package booktabs.

    Four lines a row: measured with the number of seeds, the paper's number, the difference, best on test.
    """
    columns = table.columns
    bodies = (rows(table, column)[1:] for column in columns)
    lines = [
        f"% {caption(table)}",
        *(f"% {note}" for note in footnotes(table)),
        rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
        r"\toprule",
        _latex_line(table.plan.definition.row_heading, map(_latex_words, columns)),
        r"\midrule",
        *(line for cells in zip(*bodies, strict=True) for line in _latex_row(cells)),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def cell_records(table: FilledTable) -> list[dict[str, Any]]:
    """One entry a cell, for a program; numbers to four places, None where there is none."""
    return [
        {
            **{"table": table.plan.name, "protocol": table.plan.protocol},
            **{"column": cell.column, "row": cell.row, "n": len(cell.seeds), "seeds": list(cell.seeds)},
            **{"accuracy_mean": _rounded(cell.last.mean), "accuracy_std": _rounded(cell.last.std)},
            **{"paper": cell.paper, "difference": _rounded(cell.difference)},
            "best_on_test_mean": _rounded(cell.best.mean),
            "best_on_test_std": _rounded(cell.best.std),
            "failed": cell.failed,
        }
        for cell in table.cells
    ]


def table_csv(table: FilledTable) -> str:
    """One line a cell; what is missing is an empty field."""
    lines = [entry | {"seeds": " ".join(map(str, entry["seeds"]))} for entry in cell_records(table)]
    return csv_text(lines[0], (line.values() for line in lines))


def write_table(table: FilledTable, directory: Path) -> list[Path]:
    """Write ``table-NAME.md``, ``.tex`` and ``.csv`` into a directory, which is made if it is not there."""
    directory.mkdir(parents=True, exist_ok=True)
    texts = {"md": markdown(table), "tex": latex(table), "csv": table_csv(table)}
    paths = [directory / f"table-{table.plan.name}.{ending}" for ending in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_text(path, text)
    return paths


def runs_rows(records: Iterable[RunRecord]) -> list[list[str]]:
    """Header and one row a run, in the columns that fit a terminal; ``runs.csv`` has all of them."""
    lines = [["recipe", "method", "settings", "seed", "protocol", "last", "best", "tail"]]
    for run in records:
        numbers = map(_number, (run.accuracy_last, run.best_on_test, run.measures["tail"]))
        lines.append([run.recipe, run.method, run.settings, str(run.seed), run.protocol, *numbers])
    return lines


def _latex_row(cells: Sequence[Sequence[str]]) -> Iterator[str]:
    """Four lines from one row of `rows` in each column."""
    titles, counts, shown, paper, difference, best = zip(*cells, strict=True)
    measured = (
        f"{_latex_math(text)} ({count})" if count != "0" else text.replace(MISSING, "---")
        for text, count in zip(shown, counts, strict=True)
    )
    yield _latex_line(_latex_words(titles[0]), measured)
    yield _latex_line(r"\quad paper", (text.replace(MISSING, "---") for text in paper))
    yield _latex_line(r"\quad difference", map(_latex_math, difference))
    yield _latex_line(r"\quad best on test", map(_latex_math, best))


def _latex_line(title: str, columns: Iterable[str]) -> str:
    return f"{' & '.join([title, *columns])} \\\\"


def _latex_words(text: str) -> str:
    """A title with every character escaped that LaTeX takes for a command."""
    return re.sub(r"[&%$#_{}]", r"\\\g<0>", text)


def _latex_math(text: str) -> str:
    return "---" if text == MISSING else "$" + text.replace("±", r"\pm") + "$"


def _number(value: float | None, form: str = ".2f") -> str:
    return MISSING if value is None else f"{value:{form}}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
