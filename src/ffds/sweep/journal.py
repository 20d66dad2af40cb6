"""The journal file of a study: each line has its sum, and one that was not written to its end is cut off."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from ffds.errors import InputError
from ffds.files import saving

__all__ = ["opened_journal"]

_SUM = "sha256"


def opened_journal(file: Path) -> JournalStorage:
    """The storage in a journal file, which is made if it is not there; InputError if the file is damaged."""
    # Its lock is a link to this path as given: a relative one leads nowhere, and optuna would wait for ever
    # for the lock of a process that was killed.
    file = file.resolve()
    try:
        with saving(file.name, file.parent, 0):
            journal = _Journal(str(file))
            _cut_unfinished_line(file)
        return JournalStorage(journal)
    except InputError:
        raise
    except Exception as error:  # whatever optuna makes of a line that it did not write
        raise _damaged(file, repr(error)) from error


class _Journal(JournalFileBackend):
    """Optuna's journal, with the sum of each line in the line; lines without one are of earlier versions."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        file = Path(self._file_path)
        size = file.stat().st_size
        written = json.loads(json.dumps(logs))  # as it will be read: keys are text
        summed = [log | {_SUM: _sum(log)} for log in written]
        with saving(file.name, file.parent, len(json.dumps(summed))):
            try:
                super().append_logs(summed)
            except OSError:
                os.truncate(file, size)
                raise

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        line = log_number_from + 1
        try:
            for log in super().read_logs(log_number_from):
                told = log.pop(_SUM, None)
                if told not in (None, _sum(log)):
                    raise ValueError("the line does not match its sum")
                yield log
                line += 1
        except (ValueError, AttributeError, RecursionError) as error:
            raise _damaged(f"{self._file_path}:{line}", error) from error


def _sum(log: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(log, sort_keys=True).encode()).hexdigest()[:16]


def _cut_unfinished_line(file: Path) -> None:
    """Cut off the end of a line that was not written to its end: whatever it told has not happened."""
    content = file.read_bytes()
    if (whole := content.rfind(b"\n") + 1) < len(content):
        os.truncate(file, whole)


def _damaged(where: object, error: object) -> InputError:
    fix = "restore it, or remove it: the same command makes the study again from the runs that are there"
    return InputError("the journal of the study is damaged", where=where, got=error, fix=fix)
