"""The tables of all methods in `README.md` and `docs/methods.md`, written from the registry.

``python -m ffds.reports.methods_page README.md docs/methods.md`` writes them, each between its two marks;
the text around them is written by hand. The measured numbers come from ``results/runs.csv`` beside the pages.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ffds.methods.facts import facts
from ffds.methods.registry import GROUPS, METHODS
from ffds.reports.formatting import MISSING, Spread
from ffds.reports.run_records import RunRecord, read_csv

__all__ = ["measured", "with_tables"]

RECIPE = "cifar100-lt-100"

_ALIKE = "trainer.precision=bf16"
Row = Callable[[str, Sequence[RunRecord]], list[str]]


def with_tables(text: str, runs: Sequence[RunRecord]) -> str:
    r"""A page with its tables of methods written anew.

    >>> page = "<!-- methods, short -->\n\nold\n\n<!-- end -->"
    >>> "old" in with_tables(page, []), "| `d-ffds` |" in with_tables(page, [])
    (False, True)
    """
    for kind, (header, row) in _TABLES.items():
        mark = f"<!-- {kind} -->"
        table = f"{mark}\n\n{_table(header, row, runs)}\n\n<!-- end -->"
        before, marked, rest = text.partition(mark)
        if marked:
            text = before + table + rest.partition("<!-- end -->")[2]
    return text


def measured(method: str, runs: Iterable[RunRecord], epochs: int) -> Spread:
    """Our accuracy with the settings of the shipped recipe in bfloat16, and the images a method asks for."""
    return Spread(
        tuple(
            run.accuracy_last
            for run in runs
            if (run.recipe, run.method, run.epochs) == (RECIPE, method, epochs)
            and {text for text in run.identity.settings if not _is_needed(method, text)} == {_ALIKE}
        )
    )


def _is_needed(method: str, setting: str) -> bool:
    return "validation" in METHODS[method].needs and setting.startswith("data.validation=")


def _short(method: str, runs: Sequence[RunRecord]) -> list[str]:
    of = facts(method)
    ours = [str(measured(method, runs, epochs)) for epochs in (200, 60)]
    return [f"`{method}`", of["about"], str(of["phases"]), of["published"] or MISSING, *ours]


def _long(method: str, runs: Sequence[RunRecord]) -> list[str]:
    of, (name, what, phases, *numbers) = facts(method), _short(method, runs)
    cost = of["step_beside_ce"]
    beside = MISSING if cost is None else f"{cost:.2f}"
    return [name, what, phases, of["source"], of["needs"] or MISSING, *numbers, beside]


_TABLES: dict[str, tuple[str, Row]] = {
    "methods, short": ("`method=`; what it minimises; phases; published; ours, 200 epochs; 60", _short),
    "methods, in full": (
        "`method=`; what it minimises; phases; source; needs; published; ours, 200 epochs; 60; "
        "step beside CE",
        _long,
    ),
}


def _table(header: str, row: Row, runs: Sequence[RunRecord]) -> str:
    titles = header.split("; ")
    lines = [titles, ["---"] * len(titles)]
    for group, methods in GROUPS.items():
        if methods:
            lines.append([f"**{group}**", *[""] * (len(titles) - 1)])
            lines += [row(method.model_fields["name"].default, runs) for method in methods]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _main(pages: Sequence[str]) -> None:
    for page in map(Path, pages):
        root = next(folder for folder in page.resolve().parents if (folder / "results").is_dir())
        runs = read_csv(root / "results" / "runs.csv")
        page.write_text(with_tables(page.read_text(encoding="utf-8"), runs), encoding="utf-8")


if __name__ == "__main__":
    _main(sys.argv[1:])
