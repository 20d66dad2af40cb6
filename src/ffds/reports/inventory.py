"""Which runs there are, how far each is, what it takes on the disk, and what of that nobody needs."""

from __future__ import annotations

import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffds.errors import InputError
from ffds.files import is_locked, leftovers
from ffds.run_directory import Run, RunInUse
from ffds.training.checkpoint import Checkpoints

__all__ = ["Spare", "StoredRun", "remove", "spare", "stored_runs"]

_RUN = re.compile(r"seed\d+-[0-9a-f]{8}")
_DAY = 24 * 60 * 60


@dataclass(frozen=True)
class StoredRun:
    """A run directory.

    `state` is ``done``, ``unfinished``, ``in use`` or ``damaged``; `epoch` of `epochs` are trained;
    `accuracy` is that of the network that it keeps, in percent; `bytes` are those of all its files. What a
    damaged run does not tell is None, and `error` says what is wrong.
    """

    path: Path
    state: str
    recipe: str
    method: str
    seed: int | None = None
    epoch: int | None = None
    epochs: int | None = None
    accuracy: float | None = None
    bytes: int = 0
    error: str | None = None

    @property
    def progress(self) -> str:
        """The state in words."""
        return f"{self.state}, epoch {self.epoch} of {self.epochs}" if self._counts else self.state

    @property
    def _counts(self) -> bool:
        return self.state in ("unfinished", "in use") and self.epoch is not None

    def json(self) -> dict[str, Any]:
        """Every field, for JSON."""
        return {**vars(self), "path": str(self.path)}


def stored_runs(out: str | Path) -> list[StoredRun]:
    """Every run below a directory, sorted by path."""
    return [_stored(run) for run in _runs(out)]


def _runs(out: str | Path) -> Iterator[Run]:
    for file in sorted(Path(out).rglob("recipe.yaml")):
        if _RUN.fullmatch(file.parent.name):
            yield Run(file.parent)


def _stored(run: Run) -> StoredRun:
    names: dict[str, Any] = {"recipe": run.path.parts[-3], "method": run.path.parts[-2]}
    found: dict[str, Any] = {"path": run.path, "bytes": _bytes(run.path)}
    try:
        recipe = run.recipe
        names = {"recipe": recipe.name, "method": recipe.method.name, "seed": recipe.trainer.seed}
        epoch, epochs = len(run.metrics), recipe.epochs
        accuracies = run.summary["accuracy"] if run.done else {}
        accuracy = accuracies.get("kept", accuracies.get("last"))
        state = "in use" if is_locked(run.path / "lock") else "done" if run.done else "unfinished"
    except InputError as error:
        return StoredRun(state="damaged", error=str(error), **names, **found)
    return StoredRun(state=state, epoch=epoch, epochs=epochs, accuracy=accuracy, **names, **found)


@dataclass(frozen=True)
class Spare:
    """A file or directory that nobody needs any more, why, and its size.

    It is removed while the `run` it belongs to, if it belongs to one, is locked.
    """

    path: Path
    why: str
    bytes: int
    run: Run | None = None


def spare(out: str | Path, unfinished_days: float | None = None) -> list[Spare]:
    """What can be removed below a directory without losing a result, sorted by path.

    That is what killed processes have left half written; of runs that are done all checkpoints but the
    newest one that verifies and the one that is kept for use; the checkpoints that the runs of a recipe
    share, if all of them are done; and, if it is asked for, whole runs that are not done and were not written
    to for so many days. Never anything of a run that is in use.
    """
    found: list[Spare] = []
    waiting: set[Path] = set()
    for run in _runs(out):
        recipe = run.path.parents[1]
        if is_locked(run.path / "lock"):
            waiting.add(recipe)
        elif not run.done and unfinished_days is not None and _idle_days(run.path) > unfinished_days:
            why = f"not done, and not written to for {_idle_days(run.path):.0f} days"
            found.append(Spare(run.path, why, _bytes(run.path), run))
        else:
            if not run.done:
                waiting.add(recipe)
            found += _spare_of(run)
    for shared in sorted(Path(out).rglob("trajectories")):
        if shared.is_dir() and shared.parent not in waiting:
            why = "epochs that runs of this recipe share, which are all done: new ones would train them again"
            found.append(Spare(shared, why, _bytes(shared)))
    return sorted(found, key=lambda one: one.path)


def _spare_of(run: Run) -> Iterator[Spare]:
    """Spare files of a run that nobody trains."""
    for path in [*leftovers(run.path), *run.checkpoints.glob("*.tmp")]:
        yield Spare(path, "left half written by a process that was killed", _bytes(path), run)
    if run.done:
        for path in Checkpoints(run.checkpoints).not_needed():
            yield Spare(path, "a checkpoint that a run that is done needs no more", _bytes(path), run)


def remove(one: Spare) -> bool:
    """Remove it; False where its run is in use by now, or it cannot be removed."""
    try:
        if one.run is None:
            return _removed(one.path)
        with one.run.locked():
            return _removed(one.path)
    except RunInUse:
        return False


def _removed(path: Path) -> bool:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)
    return not path.exists()


def _files(path: Path) -> Iterator[os.stat_result]:
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
        with suppress(OSError):  # removed meanwhile
            yield file.lstat()


def _bytes(path: Path) -> int:
    return sum(found.st_size for found in _files(path) if stat.S_ISREG(found.st_mode))


def _idle_days(path: Path) -> float:
    return (time.time() - max(found.st_mtime for found in _files(path))) / _DAY
