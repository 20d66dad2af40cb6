"""Methods × seeds on one recipe, in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ffds.data.content import knowing_images_if_there
from ffds.data.sources.registry import titled
from ffds.errors import FfdsError, InputError
from ffds.evaluation.groups import GROUPS, described_groups
from ffds.evaluation.measures import flat_summary, measures_in
from ffds.files import check_directory, csv_text, make_directory, write_files
from ffds.jobs.engine import train_all
from ffds.jobs.options import ALONE, Jobs
from ffds.recipes.load import override_texts, planned_recipe
from ffds.reports.formatting import MISSING, NOT_APPLICABLE, Spread, markdown_line, markdown_table, provenance
from ffds.run_directory import Run

__all__ = ["COLUMNS", "SHORT", "Comparison", "compare", "compare_recipes"]

_BEST = "best on test"
COLUMNS = {
    **{measure.title: measure.name for measure in measures_in("comparison")},
    "accuracy": "accuracy_last",
    "train": "train_accuracy",
    _BEST: "accuracy_best_on_test",
}
"""Title of a column → its name in ``compare.csv``; all but the last are of the network that a run keeps."""

SHORT = (*(measure.title for measure in measures_in("comparison") if "epoch" in measure.shown), _BEST)
"""The columns that fit a terminal."""


@dataclass(frozen=True)
class Comparison:
    """The runs of a comparison, finished or failed.

    `runs` has one run of each method for each seed, and `failures` says why a run directory has no result.
    """

    recipe: str
    title: str
    seeds: tuple[int, ...]
    runs: Mapping[str, tuple[Run, ...]]
    failures: Mapping[Path, FfdsError] = field(default_factory=dict)

    @property
    def finished(self) -> list[Run]:
        """The runs with a result."""
        return [run for method in self.runs for run in self._finished(method)]

    def cell(self, method: str, column: str) -> Spread:
        """One cell of the table, in a column of `COLUMNS`; n/a for a group without test images."""
        rows = [flat_summary(run.summary) for run in self._finished(method)]
        # The other measures are those of the network that a run keeps.
        names = ("accuracy_kept", "accuracy_last") if column == "accuracy" else (COLUMNS[column],)
        known = [next(row[name] for name in names if name in row) for row in rows if {*names} & row.keys()]
        empty = NOT_APPLICABLE if known and column in GROUPS else MISSING
        return Spread(tuple(value for value in known if value is not None), empty)

    def table(self, columns: Sequence[str] = tuple(COLUMNS)) -> list[list[str]]:
        """Header and one row a method, as text; columns are titles of `COLUMNS`."""
        lines = [["method", "n", *columns]]
        for method in self.runs:
            cells = (str(self.cell(method, column)) for column in columns)
            lines.append([method, str(len(self._finished(method))), *cells])
        return lines

    def markdown(self) -> str:
        """The table in Markdown, with what was measured, which runs failed, and where they ran."""
        seeds = ", ".join(map(str, self.seeds))
        parts = [
            markdown_line(f"# {self.title}"),
            markdown_table(self.table()),
            f"Test set, percent; mean ± sample standard deviation over n seeds of {seeds}. The last epoch is "
            "the result, or with trainer.keep=best the one that is best on validation; best on test is the "
            "highest of all epochs, chosen on the test set.",
            *(f"{text}; n/a: none of them has a test image." for text in described_groups(COLUMNS)),
            *(
                markdown_line(f"Failed: {path}: {str(error).splitlines()[0]}")
                for path, error in self.failures.items()
            ),
            "\n".join(map(markdown_line, provenance(map(_source, self.finished)))),
        ]
        return "\n\n".join(filter(None, parts)) + "\n"

    def csv(self) -> str:
        """One line a run, all numbers of its summary."""
        lines = [flat_summary(run.summary) for run in self.finished]
        # Runs of an earlier version may know fewer measures.
        columns = list(dict.fromkeys(name for line in lines for name in line)) or ["recipe"]
        return csv_text(columns, ([line.get(name) for name in columns] for line in lines))

    def write(self, directory: Path) -> None:
        """Write ``compare.md`` and ``compare.csv``."""
        make_directory(directory, "the comparison")
        texts = {"compare.md": self.markdown(), "compare.csv": self.csv()}
        write_files({directory / name: text.encode() for name, text in texts.items()})

    def _finished(self, method: str) -> list[Run]:
        """The runs with a result; one that is damaged, or on other images than now, is among the failures."""
        return [run for run in self.runs[method] if run.done and run.path not in self.failures]


def _source(run: Run) -> tuple[str, str, str | None, str]:
    environment = run.environment
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    return environment["hardware"], versions, environment["commit"], environment["command"]


def compare(
    recipe: str,
    *,
    methods: Sequence[str],
    seeds: Sequence[int] = (0,),
    out: str | Path = "runs",
    overrides: Mapping[str, Any] | None = None,
    jobs: int | None = None,
    devices: Sequence[int] = (),
    scheduler: str | None = None,
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
        scheduler: address of a Dask scheduler whose workers train the runs, for example ``tcp://HOST:8786``;
            None: this machine trains them. It excludes `jobs` and `devices`.
        shown: whether to report progress on standard error.

    Raises:
        InputError: a recipe cannot be resolved, or the jobs cannot be had; nothing has been trained then.
        Interrupted: SIGTERM or SIGINT; run it again to go on.
    """
    texts, many = override_texts(overrides or {}), Jobs.asked(jobs, devices, scheduler)
    return compare_recipes(recipe, texts, methods, seeds, out=out, jobs=many, shown=shown)


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
    """As `compare`, with overrides as typed on a command line."""
    if not methods or not seeds:
        raise InputError("a comparison needs at least one method and one seed")
    needed = knowing_images_if_there(
        [
            planned_recipe(recipe, overrides, method=method, seed=seed)
            for method in dict.fromkeys(methods)
            for seed in dict.fromkeys(seeds)
        ]
    )
    name, title = needed[0].name, titled(needed[0].data.name, needed[0].name)
    check_directory(Path(out) / name, "--out DIR")
    failures = train_all(needed, out=out, shown=shown, jobs=jobs)
    runs = {
        method: tuple(Run.of(one, out) for one in needed if one.method.name == method)
        for method in dict.fromkeys(methods)
    }
    comparison = Comparison(name, title, tuple(dict.fromkeys(seeds)), runs, failures)
    comparison.write(Path(out) / name)
    return comparison
