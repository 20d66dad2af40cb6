"""Keeps decoded images on disk, so that the next opening of the same files decodes nothing.

An entry is found by the content of the files and by everything else that decides the pixels (size, version
of Pillow, format number), never by the files' times. Their names count only where bad images are left out,
because the messages about those name them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ffds.data.source import Decoded, OnBad, Origin
from ffds.errors import InputError, tell
from ffds.files import lock_or_wait, try_lock

__all__ = ["Entry", "cache_directory", "cached", "clear", "entries"]


class Cacheable(Protocol):
    """Images, or what else is made of the files of a data set."""

    def read(self, rows: NDArray[np.int64], on_bad: OnBad) -> Decoded:
        """Those at `rows`, in that order."""

    def origin(self, rows: NDArray[np.int64]) -> Origin | None:
        """What those at `rows` are made of; None where they are in memory, or a file is not readable."""


def cached(images: Cacheable, rows: NDArray[np.int64], on_bad: OnBad) -> Decoded:
    """As ``images.read(rows, on_bad)``, but taken from the cache if the same images were decoded before.

    If the cache cannot be used, one line on standard error says so and the images are decoded without it. Of
    several processes that open the same images at once, one decodes and the others wait for it.
    """
    origin = images.origin(rows)
    entry = None if origin is None else _entry(origin, on_bad)
    if origin is None or entry is None:
        return images.read(rows, on_bad)
    if (kept := entry.read()) is not None:
        return kept
    with _locked(entry) as ours:
        if ours and (kept := entry.read()) is not None:
            return kept
        decoded = images.read(rows, on_bad)
        # If a file has changed meanwhile, the key does not belong to the pixels.
        if ours and images.origin(rows) == origin:
            entry.write(decoded, origin)
    return decoded


@dataclass(frozen=True)
class Entry:
    """One set of decoded images in numpy's .npz format, whose zip container has a checksum of each array.

    Attributes:
        path: ``<key>.npz`` with ``images``, uint8 (N, H, W, C), and ``about``, a text in JSON.
    """

    path: Path

    @property
    def bytes(self) -> int:
        """Its size on disk."""
        return self.path.stat().st_size

    @property
    def used(self) -> float:
        """When it was written or last read, in seconds since 1970."""
        return self.path.stat().st_mtime

    @property
    def about(self) -> dict[str, Any]:
        """``directory`` of the files and ``shape`` (N, H, W, C) of the images; empty if damaged."""
        with suppress(Exception), self.path.open("rb") as file, np.load(file) as content:  # as in `read`
            about: dict[str, Any] = json.loads(str(content["about"]))
            return about
        return {}

    def read(self) -> Decoded | None:
        """The images; None if there is no such entry. A damaged one is named, removed and gives None."""
        try:
            with self.path.open("rb") as file, np.load(file) as content:
                images, about = content["images"], json.loads(str(content["about"]))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:  # the readers of zip and of numpy raise nearly anything on broken bytes
            tell(f"warning: {self.path} is damaged, its images are decoded again: {error}")
            with suppress(OSError):
                self.path.unlink()
            return None
        with suppress(OSError):
            os.utime(self.path)
        return Decoded(images, {int(position): fault for position, fault in about["bad"].items()})

    def write(self, decoded: Decoded, origin: Origin) -> None:
        """Write the images completely or not at all; a full disk is reported and raises nothing."""
        part = self.path.with_suffix(".part")
        directory = os.path.commonpath({file.parent for file in origin.files})
        about = {"directory": directory, "shape": decoded.images.shape, "bad": decoded.bad}
        _remove_parts(part.parent)
        try:
            needed, free = decoded.images.nbytes, shutil.disk_usage(part.parent).free
            if free < 2 * needed:
                # Checkpoints need the room more than a cache does.
                raise OSError(f"they take {needed:,} of {free:,} bytes that are free")
            with part.open("wb") as file:
                np.savez(file, images=decoded.images, about=np.array(json.dumps(about)))
            part.replace(self.path)
        except OSError as error:
            _warn_not_cached(error)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def cache_directory() -> Path:
    """``images/`` in ``$FFDS_CACHE``, else in ``$XDG_CACHE_HOME/ffds``, else in ``~/.cache/ffds``.

    A relative ``$XDG_CACHE_HOME`` does not count, as its specification says. Raises InputError where neither
    variable is set and the user has no home directory.
    """
    own, shared = os.environ.get("FFDS_CACHE"), Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        if own:
            return Path(own).expanduser() / "images"
        return (shared if shared.is_absolute() else Path("~/.cache").expanduser()) / "ffds" / "images"
    except RuntimeError as error:
        fix = "name a directory: FFDS_CACHE=DIR"
        raise InputError("no place for decoded images", got=error, fix=fix) from error


def entries() -> list[Entry]:
    """Every entry, the last used first."""
    return sorted(map(Entry, cache_directory().glob("*.npz")), key=lambda entry: entry.used, reverse=True)


def clear() -> int:
    """Remove all entries, and return how many bytes they took; InputError if one cannot be removed."""
    directory, freed = cache_directory(), 0
    for path in [path for kind in ("npz", "part", "lock") for path in directory.glob(f"*.{kind}")]:
        freed += path.stat().st_size
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise InputError("the cache cannot be cleared", where=path, got=error.strerror) from error
    return freed


def _entry(origin: Origin, on_bad: OnBad) -> Entry | None:
    """The entry of these images, whether or not it exists yet; None if there is no cache directory."""
    # The messages about images left out name their files; other entries serve every copy of the files.
    names = map(str, origin.files) if on_bad == "skip" else ()
    key = hashlib.sha256(json.dumps([origin.digest, on_bad, *names]).encode()).hexdigest()
    try:
        return Entry(cache_directory() / f"{key}.npz")
    except InputError as error:
        _warn_not_cached(error.__cause__ or error)
        return None


@contextmanager
def _locked(entry: Entry) -> Iterator[bool]:
    """Wait for the lock of an entry; False if it cannot be had. The lock ends with the process."""
    lock = entry.path.with_suffix(".lock")
    try:
        # Readable by the user alone, as the specification of cache directories asks for.
        lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = lock_or_wait(lock, "another process is decoding the same images: waiting for it")
    except (OSError, InputError) as error:
        _warn_not_cached(error.__cause__ or error)
        yield False
        return
    with file:
        yield True


def _remove_parts(directory: Path) -> None:
    """Remove what killed processes left half written; who still writes holds the lock of the entry."""
    for part in directory.glob("*.part"):
        with suppress(OSError, InputError):
            if lock := try_lock(part.with_suffix(".lock")):
                with lock:
                    part.unlink(missing_ok=True)


def _warn_not_cached(error: BaseException) -> None:
    tell(
        f"warning: decoded images are not kept on disk: {error}; "
        "choose another place with FFDS_CACHE=DIR, or none with data.cache=false"
    )
