"""Which runs of one command were begun and which failed, in memory or in a file that its processes share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ffds.errors import FfdsError, InputError, NonFiniteLossError

__all__ = ["Journal"]

_KINDS: dict[str, type[FfdsError]] = {kind.__name__: kind for kind in (InputError, NonFiniteLossError)}


class Journal:
    """What the processes of one command tell each other; a new command starts with an empty one.

    Args:
        file: one JSON document a line, appended in one write; None: only this process is to know.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file, self._own = file, dict[Path, FfdsError]()

    def begin(self, process: int, run: Path) -> None:
        """Process number `process` trains a run from now on."""
        self._add({"run": str(run), "process": process})

    def fail(self, failures: Mapping[Path, FfdsError]) -> None:
        """Runs that failed: nobody is to try them again."""
        self._own |= failures
        for run, error in failures.items():
            self._add({"run": str(run), "kind": type(error).__name__, "message": str(error)})

    def newest(self, process: int) -> Path | None:
        """The run that a process began last."""
        begun = [Path(line["run"]) for line in self._lines() if line.get("process") == process]
        return begun[-1] if begun else None

    @property
    def begun(self) -> set[Path]:
        """The runs that any process began."""
        return {Path(line["run"]) for line in self._lines() if "process" in line}

    @property
    def failures(self) -> dict[Path, FfdsError]:
        """Directory of each run that failed, and why."""
        told = {Path(line["run"]): _error(line) for line in self._lines() if "kind" in line}
        return told | self._own

    def _add(self, line: Mapping[str, Any]) -> None:
        if self._file is not None:
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def _lines(self) -> Iterator[dict[str, Any]]:
        if self._file is not None and self._file.exists():
            text = self._file.read_text(encoding="utf-8")
            # Another process may be in the middle of its line.
            yield from map(json.loads, text[: text.rfind("\n") + 1].splitlines())


def _error(line: Mapping[str, str]) -> FfdsError:
    return _KINDS.get(line["kind"], FfdsError)(line["message"])
