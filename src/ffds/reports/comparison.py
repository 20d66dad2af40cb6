"""Many runs, one table: methods × seeds on one recipe."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ffds.data.sources.registry import titled
from ffds.errors import FfdsError, InputError
from ffds.files import check_directory, made_directory, write_text
from ffds.jobs.jobs import ALONE, Jobs
from ffds.jobs.several import train_all
from ffds.recipes.load import override_texts, planned_recipe
from ffds.recipes.schema import Recipe
from ffds.reports.formatting import Spread, markdown_table
from ffds.run_directory import Run

__all__ = ["COLUMNS", "SHORT", "Comparison", "compare", "compare_recipes"]

COLUMNS = {
    "accuracy": ("accuracy", "last"),
    "head": ("head",),
    "middle": ("middle",),
    "tail": ("tail",),
    "balanced": ("balanced_accuracy",),
    "macro-F1": ("macro_f1",),
    "ECE": ("ece",),
    "train": ("train_accuracy",),
    "best on test": ("accuracy", "best_on_test"),
}
"""Column title → place in ``summary.json``; all in percent, all but the last after the last epoch."""

SHORT = ("accuracy", "head", "middle", "tail", "best on test")
"""The columns that fit a terminal."""


@dataclass(frozen=True)
class Comparison:
    """The runs of a comparison, finished or failed.

    Attributes:
        recipe: name of the recipe.
        title: its name in a heading.
        seeds: the seeds of every method.
        runs: method → its runs, one for each seed.
        failures: run directory → why it has no result.
    """

    recipe: str
    title: str
    seeds: tuple[int, ...]
    runs: Mapping[str, tuple[Run, ...]]
    failures: Mapping[Path, FfdsError] = field(default_factory=dict)

    def cell(self, method: str, column: str) -> Spread:
        """One cell of the table.

        Args:
            method: a method of the comparison.
            column: a title of `COLUMNS`.
        """
        values = (_value(run.summary, COLUMNS[column]) for run in self._finished(method))
        return Spread(tuple(value for value in values if value is not None))

    def table(self, columns: Iterable[str] = COLUMNS) -> list[list[str]]:
        """Header and one row a method, as text.

        Args:
            columns: titles of `COLUMNS`.
        """
        return [["method", "n", *columns], *(self._row(method, columns) for method in self.runs)]

    def markdown(self) -> str:
        """The table in Markdown, with what stands behind its numbers."""
        text = f"# {self.title}\n\n{markdown_table(self.table())}\n\n"
        seeds = ", ".join(map(str, self.seeds))
        text += f"Test set, percent; mean ± sample standard deviation over n seeds of {seeds}. "
        text += "The last epoch is the result; best on test is the highest of all epochs, "
        text += "chosen on the test set.\n"
        for path, error in self.failures.items():
            text += f"\nFailed: {path}: {str(error).splitlines()[0]}\n"
        return text + "\n" + self._provenance()

    def csv(self) -> str:
        """One line a run, all numbers of its summary."""
        lines = [_flat(run.summary) for method in self.runs for run in self._finished(method)]
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(lines[0]) if lines else ["recipe"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        return text.getvalue()

    def write(self, directory: Path) -> None:
        """Write ``compare.md`` and ``compare.csv``."""
        made_directory(directory, "the comparison")
        write_text(directory / "compare.md", self.markdown())
        write_text(directory / "compare.csv", self.csv())

    def _finished(self, method: str) -> list[Run]:
        """The runs with a result; one of other images than are there now is done, and has none."""
        return [run for run in self.runs[method] if run.done and run.path not in self.failures]

    def _row(self, method: str, columns: Iterable[str]) -> list[str]:
        finished = len(self._finished(method))
        return [method, str(finished), *(str(self.cell(method, column)) for column in columns)]

    def _provenance(self) -> str:
        """Hardware, versions, commit and command of the runs, each different one once."""
        kinds = {
            (e["hardware"], json.dumps(e["versions"]), e["commit"], e["command"])
            for method in self.runs
            for e in (run.environment for run in self._finished(method))
        }
        return "".join(
            f"Measured on {hardware}; "
            + ", ".join(f"{name} {version}" for name, version in json.loads(versions).items())
            + f"; commit {commit or 'unknown'}; command `{command}`.\n"
            for hardware, versions, commit, command in sorted(kinds, key=str)
        )


def compare(
    recipe: str,
    *,
    methods: Sequence[str],
    seeds: Sequence[int] = (0,),
    out: str | Path = "runs",
    overrides: Mapping[str, Any] | None = None,
    jobs: int | None = None,
    devices: Sequence[int] = (),
    shown: bool = True,
) -> Comparison:
    """Train several methods with several seeds and set their results side by side.

    Runs with a common history train it once. Finished runs are not trained again; a failed one leaves a gap
    and its reason. The table is written to ``OUT/RECIPE/compare.md`` and ``compare.csv``.

    Args:
        recipe: name of a shipped recipe, or path of a file.
        methods: methods of Table 1.
        seeds: one run of each method per seed.
        out: directory of all runs.
        overrides: recipe keys and values, the same for all runs.
        jobs: runs at a time, each in a process of its own with its share of the cores; None: one for each of
            `devices`, without devices one. On the CPU the number of threads decides the last digits.
        devices: numbers of GPUs, given out to the jobs in turn.
        shown: whether to report progress on standard error.

    Raises:
        InputError: a recipe cannot be resolved, or the jobs cannot be had; nothing has been trained then.
        Interrupted: SIGTERM or SIGINT; run it again to go on.
    """
    texts = override_texts(overrides or {})
    at_once = Jobs.asked(jobs, devices)
    return compare_recipes(recipe, texts, methods, seeds, out=out, jobs=at_once, shown=shown)


def compare_recipes(
    recipe: str,
    overrides: Sequence[str],
    methods: Sequence[str],
    seeds: Sequence[int],
    *,
    out: str | Path = "runs",
    jobs: Jobs = ALONE,
    shown: bool = True,
) -> Comparison:
    """As `compare`, with overrides as they stand on a command line."""
    if not methods or not seeds:
        raise InputError("a comparison needs at least one method and one seed")
    plan = {method: _recipes(recipe, overrides, method, seeds) for method in dict.fromkeys(methods)}
    wanted = [one for recipes in plan.values() for one in recipes]
    first = wanted[0]
    check_directory(Path(out) / first.name, "--out DIR")
    failures = train_all(wanted, out=out, shown=shown, jobs=jobs)
    runs = {method: tuple(Run.of(one, out) for one in recipes) for method, recipes in plan.items()}
    comparison = Comparison(
        first.name, titled(first.data.name, first.name), tuple(dict.fromkeys(seeds)), runs, failures
    )
    comparison.write(Path(out) / first.name)
    return comparison


def _recipes(recipe: str, overrides: Sequence[str], method: str, seeds: Sequence[int]) -> tuple[Recipe, ...]:
    return tuple(planned_recipe(recipe, overrides, method=method, seed=seed) for seed in dict.fromkeys(seeds))


def _value(summary: Mapping[str, Any], place: Sequence[str]) -> float | None:
    found: Any = summary
    for key in place:
        found = found[key]
    return None if found is None else float(found)


def _flat(summary: Mapping[str, Any]) -> dict[str, Any]:
    accuracy = {f"accuracy_{key}": value for key, value in summary["accuracy"].items()}
    return {
        key: value
        for name, inner in summary.items()
        for key, value in (accuracy if name == "accuracy" else {name: inner}).items()
    }
