"""A table of the paper filled with measured runs, as text: for a terminal, in Markdown, LaTeX and CSV."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ffds.errors import one_line
from ffds.files import csv_text, make_directory, write_files
from ffds.paper.table_plan import Failure, Table
from ffds.reports.formatting import MISSING, markdown_line, markdown_table, provenance
from ffds.reports.run_records import Identity, RunRecord, deciding_settings, identity

__all__ = ["caption", "cell_records", "filled_table", "footnotes", "latex", "markdown", "rows"]
__all__ += ["runs_rows", "table_csv", "write_table"]


def filled_table(
    plan: Table,
    records: Iterable[RunRecord],
    *,
    seeds: Sequence[int] | None = None,
    failures: Sequence[Failure] = (),
) -> Table:
    """A planned table with the runs that belong into its cells.

    A run fills a cell if recipe, method, settings and length agree; where it was measured does not matter. Of
    two runs with the same seed the later record counts. Without `seeds` all that there are count.
    """
    by_identity: dict[Identity, dict[int, RunRecord]] = {}
    for record in records:
        if seeds is None or record.seed in seeds:
            by_identity.setdefault(record.identity, {})[record.seed] = record
    failed = {failure.identity for failure in failures}
    cells = []
    for cell in plan.cells:
        key = identity(cell.recipe)
        runs = tuple(run for _, run in sorted(by_identity.get(key, {}).items()))
        cells.append(replace(cell, runs=runs, failed=key in failed))
    return replace(plan, cells=tuple(cells), failures=tuple(failures))


def rows(table: Table, column: str) -> list[list[str]]:
    """Header and rows of one column of the paper's table: measured, the paper's number, the difference."""
    lines = [[table.definition.row_heading, "n", "accuracy", "paper", "difference", "best on test"]]
    for cell in table.columns[column]:
        numbers = _number(cell.paper), _number(cell.difference, "+.2f"), str(cell.best)
        lines.append([cell.row, str(len(cell.seeds)), cell.shown, *numbers])
    return lines


def caption(table: Table) -> str:
    """What the numbers are."""
    what, length = table.definition, "not the published length; every schedule is scaled to it"
    if table.protocol == "full":
        length = "as many epochs as published"
    kept = deciding_settings(text for text in table.overrides if not text.startswith("data.root="))
    settings = ", ".join(text for text in table.overrides if text in kept)
    changed = f" Settings on top of the recipes: {settings}." if settings else ""
    return one_line(
        f"Table {table.name}, {what.title}. Protocol {table.protocol}: {length}.{changed} {what.note} "
        "Test accuracy in percent, mean ± sample standard deviation over n seeds. The last epoch is the "
        "result, and the difference is that result less the paper's number. Best on test is the highest of "
        "all epochs, chosen on the test set, as the paper's released code does."
    )


def footnotes(table: Table) -> list[str]:
    """What failed and why, then where the numbers were measured, each place with its commands."""
    failures = [
        one_line(f"Failed: {path}: {str(error).splitlines()[0]}") for path, _, error in table.failures
    ]
    return [*failures, *provenance(run.source for run in table.sources)]


def markdown(table: Table) -> str:
    """The whole table with its caption, failures and provenance."""
    parts = [f"# Table {table.name}: {table.definition.title}", markdown_line(caption(table))]
    for column in table.columns:
        parts += [f"## {column}", markdown_table(rows(table, column))]
    return "\n\n".join([*parts, *map(markdown_line, footnotes(table))]) + "\n"


def latex(table: Table) -> str:
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
        _latex_line(table.definition.row_heading, map(_latex_words, columns)),
        r"\midrule",
        *(line for cells in zip(*bodies, strict=True) for line in _latex_row(cells)),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def cell_records(table: Table) -> list[dict[str, Any]]:
    """One entry a cell, for a program; numbers to four places, None where there is none."""
    return [
        {
            **{"table": table.name, "protocol": table.protocol},
            **{"column": cell.column, "row": cell.row, "n": len(cell.seeds), "seeds": list(cell.seeds)},
            **{"accuracy_mean": _rounded(cell.last.mean), "accuracy_std": _rounded(cell.last.std)},
            **{"paper": cell.paper, "difference": _rounded(cell.difference)},
            "best_on_test_mean": _rounded(cell.best.mean),
            "best_on_test_std": _rounded(cell.best.std),
            "failed": cell.failed,
        }
        for cell in table.cells
    ]


def table_csv(table: Table) -> str:
    """One line a cell; what is missing is an empty field."""
    lines = [entry | {"seeds": " ".join(map(str, entry["seeds"]))} for entry in cell_records(table)]
    return csv_text(lines[0], (line.values() for line in lines))


def write_table(table: Table, directory: Path) -> list[Path]:
    """Write ``table-NAME.md``, ``.tex`` and ``.csv`` into a directory, which is made if it is not there."""
    make_directory(directory, "the table", "--save DIR")
    texts = {"md": markdown(table), "tex": latex(table), "csv": table_csv(table)}
    contents = {directory / f"table-{table.name}.{ending}": text.encode() for ending, text in texts.items()}
    write_files(contents)
    return list(contents)


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
    words = {"\\": r"\textbackslash{}", "^": r"\^{}", "~": r"\~{}"}
    return re.sub(r"[\\^~&%$#_{}]", lambda found: words.get(found[0], rf"\{found[0]}"), one_line(text))


def _latex_math(text: str) -> str:
    return "---" if text == MISSING else "$" + text.replace("±", r"\pm") + "$"


def _number(value: float | None, form: str = ".2f") -> str:
    return MISSING if value is None else f"{value:{form}}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
