"""Files written atomically, locks between processes, and clear errors where a disk is full or read-only."""

from __future__ import annotations

import csv
import errno
import fcntl
import glob
import io
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from ffds.errors import InputError, note

__all__ = ["check_directory", "check_file", "flush_directory", "is_in_place", "is_locked", "leftovers"]
__all__ += [
    "csv_text",
    "json_text",
    "lock_or_wait",
    "make_directory",
    "remove_leftovers",
    "saving",
    "try_lock",
]
__all__ += ["write_bytes", "write_files", "write_json", "write_text", "written_aside"]


_ANOTHER = "choose another place with {}"
_TEMPORARY = re.compile(r"\..+\.(\d+)\.tmp")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file aside, flush it to the disk, then rename it: the old file or the new one, never a part.

    An InputError says what cannot be written, for example on a full disk; see `saving`.
    """
    write_files({path: content})


def write_files(contents: Mapping[Path, bytes]) -> None:
    """As `write_bytes`, for files of one directory: on a full disk all of them stay as they were.

    What a killed process has left half written under these names is deleted.
    """
    aside = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in contents}
    directory, names = next(iter(contents)).parent, ", ".join(path.name for path in contents)
    with saving(names, directory, sum(map(len, contents.values()))):
        try:
            for path, temporary in aside.items():
                with temporary.open("wb") as file:
                    file.write(contents[path])
                    file.flush()
                    os.fsync(file.fileno())
            for path, temporary in aside.items():
                temporary.replace(path)
        finally:
            for temporary in aside.values():
                temporary.unlink(missing_ok=True)
        for path in contents:
            remove_leftovers(directory, glob.escape(path.name))
        flush_directory(directory)


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A file to write in place of `path`, which it replaces when all is done; after an error it is deleted.

    An InputError says what cannot be written, as `write_bytes` does.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with saving(path.name, path.parent, 0):
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        remove_leftovers(path.parent, glob.escape(path.name))
        flush_directory(path.parent)


def remove_leftovers(directory: Path, name: str = "*") -> None:
    """Delete the files that `write_bytes` was still writing in a directory when its process was killed.

    Only those of one file if it is named.
    """
    for path in leftovers(directory, name):
        path.unlink(missing_ok=True)


def leftovers(directory: Path, name: str = "*") -> list[Path]:
    """The files that `remove_leftovers` deletes."""
    found = {path: _TEMPORARY.fullmatch(path.name) for path in directory.glob(f".{name}.*.tmp")}
    return [path for path, match in found.items() if match and not _is_running(int(match[1]))]


def _is_running(process: int) -> bool:
    """Whether this machine has a process with this number."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def write_text(path: Path, content: str) -> None:
    """As `write_bytes`, in UTF-8."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: object) -> None:
    """As `write_bytes`, as JSON; NaN and infinity raise ValueError, because JSON cannot express them."""
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


def make_directory(directory: Path, what: str, option: str = "--out DIR") -> Path:
    """Make a directory and those above it, unless they exist; an InputError says what cannot be written.

    The option names the directory on the command line.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fix = f"choose another directory with {option}"
        raise InputError(f"cannot write {what}", where=directory, got=error.strerror, fix=fix) from error
    return directory


def try_lock(path: Path) -> IO[str] | None:
    """Lock a file, made if it does not exist; None if another process has locked it.

    The lock ends when the returned file is closed or the process exits. It is an InputError if the file
    cannot be written, or the file system has no locks.
    """
    try:
        return _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None


def lock_or_wait(path: Path, message: str) -> IO[str]:
    """As `try_lock`, but wait while another process holds the lock, and print a message before that."""
    file = try_lock(path)
    if file is None:
        note(message)
        file = _locked(path, fcntl.LOCK_EX)
    return file


def is_locked(path: Path) -> bool:
    """Whether a process has locked a file; False where there is none."""
    lock = try_lock(path) if path.exists() else None
    if lock is not None:
        lock.close()
    return lock is None and path.exists()


def is_in_place(file: IO[str], path: Path) -> bool:
    """Whether an open file is still the one at a path, neither removed nor replaced."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _locked(path: Path, how: int) -> IO[str]:
    try:
        while True:
            with ExitStack() as opened:
                file = opened.enter_context(path.open("a", encoding="utf-8"))
                fcntl.flock(file, how)
                # Another process may have removed it in between.
                if is_in_place(file, path):
                    opened.pop_all()
                    return file
    except BlockingIOError:
        raise
    except OSError as error:
        fix = "choose a directory that can be written, on a file system that has locks, with --out DIR"
        raise InputError("cannot lock the file", where=path, got=error.strerror, fix=fix) from error


@contextmanager
def saving(what: str, directory: Path, needed: int) -> Iterator[None]:
    """Turn errors of the operating system into an InputError: what is saved, where, and the bytes needed."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(f"cannot save {what} below {directory}: {error.strerror or error}") from error
        existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
        sizes = f"{needed:,} bytes needed, {shutil.disk_usage(existing).free:,} free"
        fix = "what was saved before is kept, free some space and run again"
        raise InputError(f"disk full while saving {what} below {directory}: {sizes}; {fix}") from error


def check_directory(directory: str | Path, option: str) -> None:
    """Refuse a directory, named by an option such as ``--save DIR``, that cannot be written or made.

    It is called before anything is computed for that directory, and makes nothing.
    """
    path = Path(directory).absolute()
    existing = next((one for one in (path, *path.parents) if os.access(one, os.F_OK)), path)
    got = f"no permission to write in {existing}" if existing.is_dir() else f"{existing} is no directory"
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise InputError("cannot write there", where=directory, got=got, fix=_ANOTHER.format(option))


def check_file(file: str | Path, option: str) -> None:
    """As `check_directory`, for one file."""
    if Path(file).is_dir():
        raise InputError("cannot write there", where=file, got="a directory", fix=_ANOTHER.format(option))
    check_directory(Path(file).parent, option)


def remove_aside(path: Path) -> None:
    """Delete a file or directory, under another name first: a part of it never passes for the whole."""
    with suppress(OSError):
        path = path.rename(path.with_suffix(".tmp"))
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
