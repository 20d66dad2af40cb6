"""The image files that a user names: files, folders with all that is below them, tables of paths."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ffds.data.sources.folder import is_image
from ffds.data.sources.splits import unreadable_directory
from ffds.data.sources.tables import IMAGE_COLUMNS, SUFFIXES, read_table
from ffds.errors import InputError

__all__ = ["check_inputs", "image_files"]


def check_inputs(inputs: Sequence[str | Path]) -> int:
    """The number of images that `image_files` gives.

    Raises:
        InputError: an input is not there, or there is no image at all.
    """
    for one in inputs:
        if not Path(one).exists():
            raise InputError("no such file or folder", where=one)
    count = sum(1 for _ in image_files(inputs))
    if not count:
        allowed = "an image, or a folder with images in or below it"
        raise InputError("there is no image to predict", where=", ".join(map(str, inputs)), allowed=allowed)
    return count


def image_files(inputs: Sequence[str | Path]) -> Iterator[Path]:
    """The image files in the order given, those of a folder sorted by name, before those of its subfolders.

    A table (CSV, TSV, JSON lines, Parquet) lists them in a column such as ``path``, relative to its own
    directory. Any other file is an image whatever its name; in a folder the ending decides, and hidden files
    and folders are left out. Only one folder or one table's paths at a time are in memory.
    """
    for one in map(Path, inputs):
        if one.is_dir():
            yield from _below(one)
        elif one.suffix.lower() in SUFFIXES:
            yield from _listed(one)
        else:
            yield one


def _listed(table: Path) -> Iterator[Path]:
    read = read_table(table)
    yield from (table.parent / text for text in read.texts(read.needed("image", None, IMAGE_COLUMNS)))


def _below(folder: Path) -> Iterator[Path]:
    visited: set[str] = set()
    for place, folders, files in os.walk(folder, onerror=unreadable_directory, followlinks=True):
        # A link may lead back to a folder that was seen.
        seen = os.path.realpath(place) in visited
        visited.add(os.path.realpath(place))
        folders[:] = [] if seen else sorted(name for name in folders if name[0] != ".")
        paths = (Path(place, name) for name in sorted(files) if name[0] != "." and not seen)
        yield from filter(is_image, paths)
