"""What is said where a file cannot be saved, above all on a full disk."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ffds.errors import FfdsError, InputError

__all__ = ["check_directory", "check_file", "saving"]


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
