"""Files that are either there whole or not there."""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ffds.errors import FfdsError, InputError

__all__ = [
    "check_directory",
    "check_file",
    "csv_text",
    "flush_directory",
    "held",
    "json_text",
    "made_directory",
    "saving",
    "waited",
    "write_bytes",
    "write_json",
    "write_text",
]


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file and flush it to the disk, then put it in its place in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    flush_directory(path.parent)


def write_text(path: Path, content: str) -> None:
    """As `write_bytes`, in UTF-8."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: object) -> None:
    """As `write_bytes`, as JSON; NaN and infinity are refused because JSON has no word for them."""
    write_text(path, json_text(content))


def json_text(content: object) -> str:
    """What `write_json` writes."""
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def csv_text(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table as CSV; None is an empty field.

    >>> csv_text(["method", "tail"], [["ce", 2.5], ["fl", None]]).splitlines()
    ['method,tail', 'ce,2.5', 'fl,']
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def flush_directory(directory: Path) -> None:
    """Flush the entries of a directory, so that a rename in it survives a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def made_directory(directory: Path, what: str) -> Path:
    """The directory, made if it is not there, with those above it.

    Args:
        directory: for files and their locks.
        what: its name in the message.

    Raises:
        InputError: it cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot write {what}",
            where=directory,
            got=error.strerror,
            fix="choose another directory with --out DIR",
        ) from error
    return directory


def held(path: Path, *, make: bool = True) -> IO[str] | None:
    """Lock a file if nobody else does; closing what is returned lets go of it.

    Args:
        path: the file, in a directory that is there.
        make: whether to make a file that is not there.

    Returns:
        The open file, or None if another process holds it, or if it is not there and is not to be made.

    Raises:
        InputError: the file cannot be written, or the file system has no locks.
    """
    try:
        return _locked(path, "a" if make else "r+", fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError):
        return None
    except OSError as error:
        raise _refused(path, error) from error


def waited(path: Path) -> IO[str]:
    """Lock a file, as soon as nobody else does.

    Raises:
        InputError: the file cannot be written, or the file system has no locks.
    """
    try:
        return _locked(path, "a", fcntl.LOCK_EX)
    except OSError as error:
        raise _refused(path, error) from error


def _locked(path: Path, mode: str, how: int) -> IO[str]:
    file = path.open(mode, encoding="utf-8")
    try:
        fcntl.flock(file, how)
    except OSError:
        file.close()
        raise
    return file


def _refused(path: Path, error: OSError) -> InputError:
    return InputError(
        "cannot lock the file",
        where=path,
        got=error.strerror,
        fix="choose a directory that can be written, on a file system that has locks, with --out DIR",
    )


@contextmanager
def saving(what: str, directory: Path, needed: int) -> Iterator[None]:
    """Report what the operating system refuses as an error for the user.

    Args:
        what: is saved, with its article.
        directory: it lies in or below.
        needed: bytes of it.

    Raises:
        FfdsError: the disk is full, or the directory cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise FfdsError(f"cannot save {what} below {directory}: {error.strerror or error}") from error
        there = next(path for path in (directory, *directory.absolute().parents) if path.exists())
        free = shutil.disk_usage(there).free
        raise FfdsError(
            f"disk full while saving {what} below {directory}: {needed:,} bytes needed, {free:,} free; "
            "what was saved before is kept, free some space and run again"
        ) from error


def check_directory(directory: str | Path, option: str) -> None:
    """Refuse a directory that cannot be written or made, before anything is computed for it; makes none.

    Args:
        directory: where files will be written.
        option: that named it, with its value: ``--save DIR``.
    """
    place = Path(directory).absolute()
    there = next((one for one in (place, *place.parents) if os.access(one, os.F_OK)), place)
    if not there.is_dir():
        raise _unwritable(directory, f"{there} is no directory", option)
    if not os.access(there, os.W_OK | os.X_OK):
        raise _unwritable(directory, f"no permission to write in {there}", option)


def check_file(file: str | Path, option: str) -> None:
    """As `check_directory`, for one file."""
    if Path(file).is_dir():
        raise _unwritable(file, "a directory", option)
    check_directory(Path(file).parent, option)


def _unwritable(place: str | Path, got: str, option: str) -> InputError:
    return InputError("cannot write there", where=place, got=got, fix=f"choose another place with {option}")
