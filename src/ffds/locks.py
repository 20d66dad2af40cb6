"""Locks that end with the process that holds them, however it ends."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

from ffds.errors import InputError

__all__ = ["held", "made_directory", "waited"]


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
