"""The run directory: everything one training writes, readable without torch."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel

from ffds.errors import InputError
from ffds.files import is_in_place, json_text, make_directory, remove_leftovers, saving, try_lock, write_text
from ffds.recipes.load import dump_recipe, load_recipe
from ffds.recipes.schema import Recipe
from ffds.run_contents import Classes, Environment, Epoch, Summary, checked

__all__ = ["Run", "RunInUse", "open_run"]

_DECIDING = ("hardware", "versions", "commit")
"""Environment fields that may change results."""


@dataclass(frozen=True)
class Run:
    """One training on disk, in the directory `path`: ``OUT/<recipe>/<method>/seed<k>-<hash8>/``.

    `lock` is the lock file, where this process holds it: then nothing is written once it was removed.
    """

    path: Path
    lock: IO[str] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, recipe: Recipe, out: str | Path = "runs") -> Run:
        """The directory that belongs to a recipe; the same recipe always has the same one.

        One that an earlier version named, where only that one exists, is taken as it is.
        """
        parent = Path(out) / recipe.name / recipe.method.name
        paths = [
            parent / f"seed{recipe.trainer.seed}-{digest[:8]}"
            for digest in (recipe.config_hash, recipe.earlier_hash)
        ]
        return cls(next((path for path in paths if path.exists()), paths[0]))

    def knows_images(self, recipe: Recipe) -> bool:
        """Whether its name tells your own images, if the recipe has any, from others in the same place.

        The name that an earlier version gave does not.
        """
        return recipe.data.images is None or self.path.name.endswith(recipe.config_hash[:8])

    @property
    def name(self) -> str:
        """Where it is below the directory of all runs: ``<recipe>/<method>/seed<k>-<hash8>``."""
        return "/".join(self.path.parts[-3:])

    @property
    def checkpoints(self) -> Path:
        """Directory of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def predictions(self) -> Path:
        """Parquet file with one row per test image, written when the run is done."""
        return self.path / "predictions.parquet"

    @property
    def page(self) -> Path:
        """The page about the run, written by ``ffds train`` and ``ffds report``."""
        return self.path / "report.html"

    @property
    def done(self) -> bool:
        """Whether training is finished."""
        return (self.path / "summary.json").is_file()

    @property
    def summary(self) -> dict[str, Any]:
        """The results, in percent; InputError if the run is not done, or the file is damaged."""
        if not self.done:
            raise InputError(
                "run is not done", where=self.path, fix="start the same training again: it goes on"
            )
        return self._read("summary.json", Summary)

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe that made this run."""
        return load_recipe(str(self.path / "recipe.yaml")).recipe

    @property
    def located_recipe(self) -> Recipe:
        """The recipe, with `data.root` as the images are found from here.

        That is where they lay, seen from the run directory, or else what the recipe says.
        """
        recipe, place = self.recipe, None
        with suppress(InputError):  # an environment that is lost tells nothing
            place = self.environment.get("data_root")
        if recipe.data.root is None or not isinstance(place, str):
            return recipe
        root = Path(os.path.normpath(Path(os.path.realpath(self.path), place)))
        return recipe.with_root(str(root)) if root.exists() else recipe

    @property
    def environment(self) -> dict[str, Any]:
        """Hardware, versions, commit and command; InputError if the file is missing or damaged."""
        return self._read("environment.json", Environment)

    @property
    def classes(self) -> list[dict[str, Any]]:
        """Name, training images and test images of each class; empty where an earlier version made the run.

        InputError if the file is damaged.
        """
        if not (self.path / "classes.json").exists():
            return []
        classes: list[dict[str, Any]] = self._read("classes.json", Classes)["classes"]
        return classes

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One entry for each finished epoch, without a line cut short by a crash.

        InputError if the file is damaged, or an epoch before the last one is missing.
        """
        file = self.path / "metrics.jsonl"
        if not file.exists():
            return []
        with _damage(file):
            lines = file.read_bytes().split(b"\n")[:-1]
        return [_entry(file, line, epoch) for epoch, line in enumerate(lines, 1)]

    def check(self) -> None:
        """Raise InputError unless the run is done, its files can be read, and no two of them disagree."""
        summary, recipe, metrics, _ = self.summary, self.recipe, self.metrics, self.environment
        known = summary["config_hash"][:8], self.path.name.rpartition("-")[2]
        if not {recipe.config_hash[:8], recipe.earlier_hash[:8]}.intersection(known):
            raise _damaged(self.path / "recipe.yaml", "not the recipe that the run was made with")
        last: dict[str, Any] = metrics[-1] if metrics else {}
        scores = {"accuracy": None, **(last.get("test") or {}), "epochs": last.get("epoch")}
        told = {**summary, "accuracy": summary["accuracy"]["last"]}
        if (kept := summary.get("kept")) is not None:
            best = {line["epoch"]: line for line in metrics}.get(kept["epoch"], {}).get("test") or {}
            scores |= {**best, "accuracy": scores["accuracy"], "kept": best.get("accuracy")}
            told["kept"] = summary["accuracy"].get("kept")
        if differing := [name for name in scores.keys() - {"per_class"} if scores[name] != told.get(name)]:
            got = f"{', '.join(sorted(differing))} not as in the last line of metrics.jsonl"
            if kept is not None:
                got += f", or in that of epoch {kept['epoch']}"
            raise _damaged(self.path / "summary.json", got)

    def start(self, recipe: Recipe, environment: dict[str, Any]) -> list[str]:
        """Write the recipe and the environment; one that differs from before is kept under ``earlier``.

        ``data_root`` is where the images lie, seen from the run directory: so they are found from anywhere.
        What differs is returned, one text each: ``commit: OLD → NEW``.
        """
        before: dict[str, Any] = {}
        with suppress(InputError):  # missing or damaged
            before = self.environment
        earlier = before.pop("earlier", [])
        changed = [key for key in _DECIDING if before and before.get(key) != environment.get(key)]
        if changed:
            earlier.append(before)
        if recipe.data.root is not None:
            root = Path(recipe.data.root).expanduser()
            data_root = os.path.relpath(os.path.realpath(root), os.path.realpath(self.path))
            environment = environment | {"data_root": data_root}
        self.write_text("recipe.yaml", dump_recipe(recipe))
        self.write_text(
            "environment.json", json_text(environment | ({"earlier": earlier} if earlier else {}))
        )
        return [f"{key}: {_text(before.get(key))} → {_text(environment.get(key))}" for key in changed]

    def add_to_environment(self, facts: Mapping[str, Any]) -> None:
        """Add to the environment that `start` has written what was not known then."""
        self.write_text("environment.json", json_text({**self.environment, **facts}))

    def keep_epochs(self, epochs: int) -> None:
        """Delete the metrics of epochs that will be trained again; InputError if earlier ones are missing."""
        kept = [line for line in self.metrics if line["epoch"] <= epochs]
        if len(kept) < epochs:
            got = f"metrics of {len(kept)} epochs, and a checkpoint after {epochs}"
            raise _damaged(self.path / "metrics.jsonl", got)
        self.take_epochs(kept)

    def take_epochs(self, metrics: Iterable[Mapping[str, Any]]) -> None:
        """Replace all metrics."""
        self.write_text("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in metrics))

    def add_epoch(self, entry: dict[str, Any]) -> None:
        """Append the metrics of one epoch; InputError if those of the epoch before are not there."""
        line = json.dumps(entry, allow_nan=False) + "\n"
        path = self.path / "metrics.jsonl"
        self.check_lock()
        if entry["epoch"] > 1:
            _entry(path, _last_line(path), entry["epoch"] - 1)
        with saving("the metrics", self.path, len(line)), path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def name_classes(self, classes: Iterable[tuple[str, int, int]]) -> None:
        """Write name, training images and test images of each class."""
        named = [{"name": name, "train": train, "test": test} for name, train, test in classes]
        self.write_text("classes.json", json_text({"classes": named}))

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary: from now on the run is done."""
        self.write_text("summary.json", json_text(summary))

    def check_lock(self) -> None:
        """InputError if the lock that this process holds was removed: another one may train by now."""
        if self.lock is not None and not is_in_place(self.lock, self.path / "lock"):
            what = "the lock of this run was removed while it trained: another process may train it by now"
            fix = "when none does, start the same training again: it goes on"
            raise InputError(what, where=self.path / "lock", fix=fix)

    def write_text(self, name: str, text: str) -> None:
        """Write a file of the run, unless the lock that this process holds was removed."""
        self.check_lock()
        write_text(self.path / name, text)

    def _read(self, name: str, promised: type[BaseModel]) -> dict[str, Any]:
        file = self.path / name
        with _damage(file):
            return checked(file.read_bytes(), promised)

    @contextmanager
    def locked(self) -> Iterator[Run]:
        """Create the directory and lock it, until left or the process exits; InputError if that fails.

        It is a RunInUse where another process has locked it. Files that killed processes have left half
        written are deleted.
        """
        file = make_directory(self.path, "the run directory") / "lock"
        lock = try_lock(file)
        if lock is None:
            got = f"lock of {_holder(file)}"
            fix = "wait for it or stop it; for a second run use trainer.seed=N or --out DIR"
            raise RunInUse("another process is training this run", where=self.path, got=got, fix=fix)
        with lock:
            holder = f"pid {os.getpid()} on {socket.gethostname()}\n"
            with saving("the lock", self.path, len(holder)):
                lock.truncate(0)
                lock.write(holder)
                lock.flush()
            remove_leftovers(self.path)
            yield replace(self, lock=lock)


class RunInUse(InputError):  # noqa: N818  (nothing is wrong: it can be waited for)
    """Another process has locked the run."""


def open_run(path: str | Path) -> Run:
    """The run at a path; InputError if there is no run directory."""
    run = Run(Path(path))
    if not (run.path / "recipe.yaml").is_file():
        got = "no recipe.yaml in it" if run.path.is_dir() else "no such directory"
        fix = "name a directory such as runs/RECIPE/METHOD/seed0-1a2b3c4d"
        raise InputError("not a run directory", where=path, got=got, fix=fix)
    return run


def _entry(file: Path, line: bytes, epoch: int) -> dict[str, Any]:
    """A line of the metrics, which has to be that of an epoch."""
    try:
        entry = checked(line, Epoch)
    except ValueError as error:
        raise _damaged(file, f"no metrics of epoch {epoch} in line {epoch}: {error}") from error
    if entry["epoch"] != epoch:
        raise _damaged(file, f"metrics of epoch {entry['epoch']}, where those of epoch {epoch} should be")
    return entry


def _last_line(file: Path) -> bytes:
    """The last line of a file without reading the others; empty where there is none."""
    try:
        with file.open("rb") as opened, mmap(opened.fileno(), 0, access=ACCESS_READ) as content:
            return content[content.rfind(b"\n", 0, len(content) - 1) + 1 :]
    except (OSError, ValueError):  # missing, or empty
        return b""


def _holder(lock: Path) -> str:
    """Who holds a lock, as its file says."""
    try:
        return lock.read_text(encoding="utf-8", errors="replace")[:200].strip()
    except OSError:
        return "an unknown process"


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@contextmanager
def _damage(file: Path) -> Iterator[None]:
    """Say of a file that cannot be read that it is damaged."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: object) -> InputError:
    fix = "restore it, or delete the run directory to train from the start"
    return InputError("a file of the run is missing or damaged", where=file, got=error, fix=fix)
