"""Finished runs as rows of ``runs.csv``, and what decides whether two runs repeat the same experiment."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from ffds.data.sources.registry import SOURCES
from ffds.errors import InputError, tell
from ffds.evaluation.measures import flat_summary, measures_in
from ffds.files import csv_text
from ffds.recipes.load import load_recipe, shipped_recipes
from ffds.recipes.schema import Recipe, keys_with
from ffds.run_contents import Amount, Count, Percent, faults
from ffds.run_directory import Run
from ffds.settings import Role

__all__ = ["COLUMNS", "Identity", "RunRecord", "changed_settings", "deciding_settings", "identity"]
__all__ += ["protocol", "read_csv", "readable_runs", "records", "run_record", "runs_csv"]


class Identity(NamedTuple):
    """The experiment that a run belongs to: runs that agree in it differ in seed and machine only."""

    recipe: str
    method: str
    settings: frozenset[str]
    epochs: int


def identity(recipe: Recipe) -> Identity:
    """The experiment of a run of this recipe.

    >>> one = load_recipe("digits", ["trainer.compile=true", "trainer.seed=3"]).recipe
    >>> identity(one) == identity(load_recipe("digits").recipe)
    True
    """
    settings = deciding_settings(changed_settings(recipe))
    return Identity(recipe.name, recipe.method.name, settings, recipe.schedule.epochs)


def changed_settings(recipe: Recipe) -> tuple[str, ...]:
    """``key=value`` of each setting that differs from the shipped recipe for the same method.

    Seed and epochs have columns of their own. The directory of the images is no setting, except that of your
    own where the recipe does not know their sum. A recipe that is not shipped is compared with the defaults.

    >>> changed_settings(load_recipe("digits", ["method.k=0.5", "data.root=here"]).recipe)
    ('method.k=0.5',)
    """
    usual = _usual(recipe.name, recipe.method.name, recipe.data.name).by_key
    unknown = SOURCES[recipe.data.name].own_images and recipe.data.images is None
    place = [] if unknown else [Role.PLACE]
    aside = keys_with(Role.COLUMN, Role.LOADING, *place)
    return tuple(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in recipe.by_key.items()
        if key not in aside and value != usual[key]
    )


def deciding_settings(settings: Iterable[str]) -> frozenset[str]:
    """Those of some ``key=value`` that belong to the identity of a run.

    >>> deciding_settings(["method.k=0.5", "data.download=true", "trainer.compile=true"])
    frozenset({'method.k=0.5'})
    """
    aside = keys_with(Role.COLUMN, Role.LOADING, Role.RUNNING)
    return frozenset(text for text in settings if text.partition("=")[0] not in aside)


def protocol(recipe: Recipe) -> str:
    """``full`` where the run has as many epochs as the shipped recipe, else ``N-epochs``.

    >>> protocol(load_recipe("cifar100-lt-100", ["schedule.epochs=40"]).recipe)
    '40-epochs'
    """
    epochs, usual = recipe.schedule.epochs, _usual(recipe.name, recipe.method.name, recipe.data.name)
    return "full" if epochs == usual.schedule.epochs else f"{epochs}-epochs"


@cache
def _usual(name: str, method: str, source: str) -> Recipe:
    """The shipped recipe for this method; of a recipe that is not shipped, the defaults."""
    if name in shipped_recipes():
        return load_recipe(name, method=method).recipe
    return Recipe.model_validate({"name": name, "data": {"name": source}, "method": {"name": method}})


@dataclass(frozen=True)
class RunRecord:
    """One finished run, in the columns of ``runs.csv``; accuracies in percent.

    Attributes:
        settings: ``key=value`` of each changed setting, separated by ``; ``.
        protocol: ``full``, or for example ``40-epochs``.
        accuracy_last: on the test set, after the last epoch.
        best_on_test: highest test accuracy of an epoch, chosen on the test set.
        measures: the other measures that ``runs.csv`` shows, after the last epoch; each has its own column.
        train_accuracy: during the last epoch, on the augmented training images.
        commit: of this package, ``unknown`` for an installed one.
    """

    recipe: str
    method: str
    settings: str
    seed: Count
    protocol: str
    epochs: Count
    accuracy_last: Percent
    best_on_test: Percent | None
    best_epoch: Count | None
    measures: Mapping[str, Percent | None]
    train_accuracy: Percent | None
    seconds: Amount
    hardware: str
    torch: str
    commit: str
    command: str

    @property
    def identity(self) -> Identity:
        """The experiment that it belongs to."""
        settings = deciding_settings(self.settings.split("; ") if self.settings else ())
        return Identity(self.recipe, self.method, settings, self.epochs)

    @property
    def source(self) -> tuple[str, str, str, str]:
        """Where and how it was measured, for `ffds.reports.formatting.provenance`."""
        return self.hardware, f"torch {self.torch}", self.commit, self.command

    @property
    def columns(self) -> dict[str, Any]:
        """Its values by column."""
        return {name: self.measures[name] if name in MEASURES else getattr(self, name) for name in COLUMNS}


MEASURES = tuple(measure.name for measure in measures_in("runs") if measure.name != "accuracy")
COLUMNS = tuple(
    column
    for field in fields(RunRecord)
    for column in (MEASURES if field.name == "measures" else (field.name,))
)
"""The columns of ``runs.csv``."""

_record = TypeAdapter(RunRecord).validate_python
"""A record from its values, or from their text; a ValidationError names those that cannot be."""


def run_record(run: Run) -> RunRecord:
    """The record of a finished run; damaged files, or those of an unknown version, are an InputError."""
    run.check()
    recipe, summary, environment = run.recipe, flat_summary(run.summary), run.environment
    last = run.metrics[-1]["test"] if "kept" in summary else summary
    return RunRecord(
        recipe=recipe.name,
        method=recipe.method.name,
        settings="; ".join(changed_settings(recipe)),
        seed=recipe.trainer.seed,
        protocol=protocol(recipe),
        epochs=recipe.schedule.epochs,
        accuracy_last=summary["accuracy_last"],
        best_on_test=summary["accuracy_best_on_test"],
        best_epoch=summary["accuracy_best_epoch"],
        measures={name: last.get(name) for name in MEASURES},
        train_accuracy=summary["train_accuracy"],
        seconds=summary["seconds"],
        hardware=environment["hardware"],
        torch=environment["versions"]["torch"],
        commit=environment["commit"] or "unknown",
        command=environment["command"],
    )


def readable_runs(out: str | Path) -> Iterator[tuple[Run, RunRecord]]:
    """All finished runs below a directory with their records, sorted by path.

    A run that cannot be read is reported on standard error and left out.
    """
    for file in sorted(Path(out).rglob("summary.json")):
        run = Run(file.parent)
        try:
            if (run.path / "recipe.yaml").is_file():
                yield run, run_record(run)
        except InputError as error:
            tell(f"warning: run {run.path} is left out: {error}")


def records(out: str | Path) -> list[RunRecord]:
    """The records of all finished runs below a directory, see `readable_runs`."""
    return [record for _, record in readable_runs(out)]


def runs_csv(runs: Iterable[RunRecord]) -> str:
    """The text of a ``runs.csv``; a value that is not known is an empty field."""
    return csv_text(COLUMNS, (run.columns.values() for run in runs))


def read_csv(path: str | Path) -> list[RunRecord]:
    """The records of a ``runs.csv``; a measure that has no column in it is None.

    A file without another column, or with a line that holds something else than its columns, is an
    InputError.
    """
    try:
        content = Path(path).read_bytes()
        text = content.decode("utf-8-sig")  # a spreadsheet may write a mark in front
    except OSError as error:
        raise InputError("the measured runs cannot be read", where=path, got=error.strerror) from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        what = "the measured runs are no text in UTF-8"
        raise InputError(what, where=f"{path}:{line}", got=error.reason) from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        missing = [name for name in COLUMNS if name not in (*header, *MEASURES)]
        if missing:
            raise InputError(f"not a runs.csv: no column {', '.join(missing)}", where=path)
        if len(set(header)) < len(header):
            raise InputError("not a runs.csv: a column stands twice", where=path)
        return [_parsed(header, row, f"{path}:{reader.line_num}") for row in reader if row]
    except csv.Error as error:
        raise InputError("not a runs.csv", where=f"{path}:{reader.line_num}", got=error) from error


def _parsed(header: Sequence[str], row: Sequence[str], where: str) -> RunRecord:
    if len(row) != len(header):
        got, allowed = f"{len(row)} fields", f"{len(header)}, as in the first line"
        raise InputError("a line has another number of fields", where=where, got=got, allowed=allowed)
    texts = dict(zip(header, row, strict=True))
    values: dict[str, Any] = {
        one.name: texts[one.name] if one.type == "str" else texts[one.name] or None
        for one in fields(RunRecord)
        if one.name != "measures"
    }
    try:
        return _record(values | {"measures": {name: texts.get(name) or None for name in MEASURES}})
    except ValidationError as error:
        raise InputError("a line of a runs.csv cannot be used", where=where, got=faults(error)) from error
