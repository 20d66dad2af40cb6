"""What a run measures: its recipe and method, the settings that decide the result, and its length."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ffds.data.sources.registry import SOURCES
from ffds.errors import InputError
from ffds.recipes.load import load_recipe, shipped_recipes
from ffds.recipes.schedule import leaves
from ffds.recipes.schema import LOADING, RUNNING, Recipe
from ffds.run_directory import Run

__all__ = [
    "Identity",
    "Measured",
    "changed_settings",
    "csv_text",
    "deciding",
    "finished_runs",
    "identity",
    "measured",
    "protocol",
    "provenance",
    "read_csv",
    "read_runs",
    "readable_runs",
]

_OWN_COLUMN = ("name", "method.name", "trainer.seed", "schedule.epochs")
_LOADING = ("data.download", *(f"data.{key}" for key in LOADING))
"""How the images come from where they lie."""
_MACHINE = (
    *("trainer.compile", "trainer.channels_last", "trainer.devices", "trainer.num_nodes"),
    *("trainer.accelerator", "trainer.deterministic", "trainer.eval_every"),
    *(f"trainer.{key}" for key in RUNNING),
)
"""How a machine does the same training. Not trainer.precision: that can cost accuracy."""


class Identity(NamedTuple):
    """What was measured, whatever the seed and the machine: runs that agree in it are repetitions."""

    recipe: str
    method: str
    settings: frozenset[str]
    epochs: int


def identity(recipe: Recipe) -> Identity:
    """What a run of this recipe measures.

    >>> one = load_recipe("digits", ["trainer.compile=true", "trainer.seed=3"]).recipe
    >>> identity(one) == identity(load_recipe("digits").recipe)
    True
    """
    settings = deciding(changed_settings(recipe))
    return Identity(recipe.name, recipe.method.name, settings, recipe.schedule.epochs)


def changed_settings(recipe: Recipe) -> tuple[str, ...]:
    """``key=value`` of each setting that differs from the shipped recipe's for the same method.

    Seed and epochs are told apart. Where a published dataset lies is no setting; the directory of images of
    one's own is. A recipe that is not shipped is compared with the defaults.

    >>> changed_settings(load_recipe("digits", ["method.k=0.5", "data.root=here"]).recipe)
    ('method.k=0.5',)
    """
    usual = dict(leaves(_usual(recipe)))
    aside = (*_OWN_COLUMN, *_LOADING, *(() if SOURCES[recipe.data.name].own_images else ("data.root",)))
    return tuple(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in leaves(recipe)
        if key not in aside and value != usual[key]
    )


def deciding(settings: Iterable[str]) -> frozenset[str]:
    """Those of ``key=value`` that say what is measured beside recipe, method, seed and length.

    >>> deciding(["method.k=0.5", "data.download=true", "trainer.compile=true"])
    frozenset({'method.k=0.5'})
    """
    aside = (*_OWN_COLUMN, *_LOADING, *_MACHINE)
    return frozenset(text for text in settings if text.partition("=")[0] not in aside)


def protocol(recipe: Recipe) -> str:
    """``full`` where the run has as many epochs as the shipped recipe, else ``N-epochs``.

    >>> protocol(load_recipe("cifar100-lt-100", ["schedule.epochs=40"]).recipe)
    '40-epochs'
    """
    epochs = recipe.schedule.epochs
    return "full" if epochs == _usual(recipe).schedule.epochs else f"{epochs}-epochs"


def _usual(recipe: Recipe) -> Recipe:
    return _shipped_or_defaults(recipe.name, recipe.method.name, recipe.data.name)


@cache
def _shipped_or_defaults(name: str, method: str, source: str) -> Recipe:
    if name in shipped_recipes():
        return load_recipe(name, method=method).recipe
    return Recipe.model_validate({"name": name, "data": {"name": source}, "method": {"name": method}})


@dataclass(frozen=True)
class Measured:
    """One finished run, in the columns of ``results/runs.csv``; accuracies in percent.

    Attributes:
        recipe: name of the recipe.
        method: name of the method.
        settings: ``key=value`` of each setting that differs from the shipped recipe, ``; `` between.
        seed: `trainer.seed`.
        protocol: ``full``, or e.g. ``40-epochs``, see `ffds.reports.run_records.protocol`.
        epochs: length of the run.
        accuracy_last: on the test set, after the last epoch.
        best_on_test: highest test accuracy of an epoch, chosen on the test set.
        best_epoch: the epoch that had it, counted from 1.
        head: mean accuracy of the head classes after the last epoch, None without any; so the next two.
        middle: of the middle classes.
        tail: of the tail classes.
        train_accuracy: during the last epoch, on the augmented training images.
        seconds: wall time of the run.
        hardware: where it ran.
        torch: version.
        commit: of this package, ``unknown`` for an installed one.
        command: as typed.
    """

    recipe: str
    method: str
    settings: str
    seed: int
    protocol: str
    epochs: int
    accuracy_last: float
    best_on_test: float | None
    best_epoch: int | None
    head: float | None
    middle: float | None
    tail: float | None
    train_accuracy: float | None
    seconds: float
    hardware: str
    torch: str
    commit: str
    command: str

    @property
    def identity(self) -> Identity:
        """What it measured."""
        settings = deciding(self.settings.split("; ") if self.settings else ())
        return Identity(self.recipe, self.method, settings, self.epochs)


_READ: dict[str, Callable[[str], object]] = {
    "str": str,
    "int": int,
    "float": float,
    "int | None": lambda text: int(text) if text else None,
    "float | None": lambda text: float(text) if text else None,
}
"""From the text of a field to its value, by the type of its column."""


def finished_runs(out: str | Path) -> list[Run]:
    """Every run below a directory that came to its end, by path."""
    places = (file.parent for file in sorted(Path(out).rglob("summary.json")))
    return [Run(place) for place in places if (place / "recipe.yaml").is_file()]


def measured(run: Run) -> Measured:
    """The line of a finished run.

    Raises:
        InputError: this version cannot read its recipe.
    """
    recipe, summary, environment = run.recipe, run.summary, run.environment
    return Measured(
        recipe=recipe.name,
        method=recipe.method.name,
        settings="; ".join(changed_settings(recipe)),
        seed=recipe.trainer.seed,
        protocol=protocol(recipe),
        epochs=summary["epochs"],
        accuracy_last=summary["accuracy"]["last"],
        best_on_test=summary["accuracy"]["best_on_test"],
        best_epoch=summary["accuracy"]["best_epoch"],
        **{name: summary[name] for name in ("head", "middle", "tail", "train_accuracy", "seconds")},
        hardware=environment["hardware"],
        torch=environment["versions"]["torch"],
        commit=environment["commit"] or "unknown",
        command=environment["command"],
    )


def readable_runs(out: str | Path) -> Iterator[tuple[Run, Measured]]:
    """All finished runs below a directory with their lines; one that cannot be read is named and left out."""
    for run in finished_runs(out):
        try:
            yield run, measured(run)
        except InputError as error:
            print(f"warning: run {run.path} is left out: {error}", file=sys.stderr)


def read_runs(out: str | Path) -> list[Measured]:
    """The lines of all finished runs below a directory, see `readable_runs`."""
    return [line for _, line in readable_runs(out)]


def provenance(lines: Iterable[Measured]) -> list[str]:
    """Where runs were measured: one sentence for each place, with its commands."""
    places: dict[tuple[str, str, str], dict[str, None]] = {}
    for run in lines:
        places.setdefault((run.hardware, run.torch, run.commit), {})[run.command] = None
    return [
        f"Measured on {hardware}; torch {torch}; commit {commit}; "
        + ", ".join(f"`{command}`" for command in commands)
        + "."
        for (hardware, torch, commit), commands in places.items()
    ]


def csv_text(lines: Iterable[Measured]) -> str:
    """The text of a ``runs.csv``; what is n/a is an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(Measured))
    writer.writerows(astuple(line) for line in lines)
    return text.getvalue()


def read_csv(path: str | Path) -> list[Measured]:
    """The lines of a ``runs.csv``.

    Raises:
        InputError: there is no such file, a column is missing, or a field is not a number.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("the measured runs cannot be read", where=path, got=error) from error
    reader = csv.DictReader(io.StringIO(text))
    missing = [field.name for field in fields(Measured) if field.name not in (reader.fieldnames or ())]
    if missing:
        raise InputError(f"not a runs.csv: no column {', '.join(missing)}", where=path)
    return [_line(record, f"{path}:{reader.line_num}") for record in reader]


def _line(record: dict[str, str | None], where: str) -> Measured:
    found: dict[str, Any] = {}
    for field in fields(Measured):
        text = record[field.name] or ""
        try:
            found[field.name] = _READ[str(field.type)](text)
        except ValueError as error:
            raise InputError(f"{field.name} is not a number", where=where, got=repr(text)) from error
    return Measured(**found)
