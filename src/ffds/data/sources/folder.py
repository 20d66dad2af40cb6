"""An image folder: one directory a class."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ffds.data.decode import SUFFIXES, FileImages, Stored, opened
from ffds.data.source import Labelled, Source, existing_root
from ffds.data.sources.class_names import check_distinct, places
from ffds.data.sources.splits import (
    Splits,
    choose_splits,
    entries,
    kind_of,
    listed,
    unreadable_directory,
    unused_splits,
)
from ffds.data.sources.tables import METADATA, tables_in
from ffds.errors import InputError
from ffds.recipes.schema import Data

__all__ = ["LAYOUT", "files_below", "is_image", "labelled_files", "open_folder", "open_labelled", "read_text"]

LAYOUT = (
    "train/CLASS/* with test/CLASS/* or val/CLASS/* or both, or CLASS/* to be split by data.test_fraction"
)
FIX = "give its directory: data.root=DIR, or a table of files and classes: data.name=manifest data.root=FILE"
CLUTTER = {"thumbs.db", "desktop.ini"}
"""Files that Windows leaves in any directory, passed over like hidden ones without a word."""
MOST_NAMED = 10
"""Suffixes in a note."""


def open_folder(data: Data) -> Source:
    """The source `folder`: class order is that of the sorted directory names.

    Images are stored as squares of side `data.eval_resize` or else `data.image_size` (see `decode.Stored`),
    or as they are if neither is given. The directories of the splits have any of their usual names (see
    `splits`); without one for testing the test set is cut from each class.
    """
    root = existing_root(data, LAYOUT, FIX)
    stored = Stored.of(data)
    directories = _directories(root)
    splits = _splits(directories, data.test_split, root)
    names = _directories(root / (splits.train or ""))
    tables = [file for name in ("", *filter(None, splits)) for file in tables_in(root / name)]
    if not names:
        where, fix = root / (splits.train or ""), "; ".join(_of_tables(tables))
        raise InputError("no class directories", where=where, allowed=LAYOUT, fix=fix)
    check_distinct(names, root / (splits.train or ""))
    files = {name: list(_files(root / name, names)) for name in splits if name is not None}
    images: dict[str | None, Labelled] = {
        name: labelled_files([one for one in split if is_image(one[0])], stored)
        for name, split in files.items()
    }
    loose = [path for name in files for path in _loose_images(root / name)]
    unused = [f"{name}/" for name in directories if splits.train and name not in files]
    return Source(
        f"image folder {root}",
        names,
        train=images[splits.train],
        test=images.get(splits.test, labelled_files([], stored)),
        validation=images.get(splits.validation),
        cut_test=splits.test is None,
        test_split=splits.test,
        notes=(
            *_notes(loose, [path for split in files.values() for path, _ in split], unused, root),
            *_of_tables(tables),
        ),
    )


def open_labelled(data: Data) -> Source:
    """Images to score: those of the test split, else of the validation or the training split, else all."""
    root = existing_root(data, LAYOUT, FIX)
    directories = _directories(root)
    name = ""
    if data.test_split is not None or any(map(kind_of, directories)):
        splits = choose_splits(directories, data.test_split, root)
        name = splits.test or splits.train or ""
    place = root / name
    names = _directories(place)
    files = list(_files(place, names))
    stored = Stored.of(data)
    images = labelled_files([one for one in files if is_image(one[0])], stored)
    if not len(images):
        raise InputError("no images in class directories", where=place, allowed=LAYOUT)
    unused = [f"{other}/" for other in directories if name and other != name]
    return Source(
        f"image folder {place}",
        names,
        train=images.take(np.arange(0)),
        test=images,
        notes=_notes(_loose_images(place), [path for path, _ in files], unused, root),
    )


def is_image(file: Path) -> bool:
    """Whether the name of a file ends like that of an image in a format that is decoded."""
    return file.suffix.lower() in SUFFIXES


def files_below(directory: Path) -> list[Path]:
    """The files in and below a directory that are not hidden, in torchvision's order: by directory, name."""
    visited: set[str] = set()
    files_of = []
    for folder, directories, files in os.walk(directory, onerror=unreadable_directory, followlinks=True):
        directories[:] = [name for name in directories if name[0] != "."]
        place = os.path.realpath(folder)
        if place in visited:
            what = "a link makes a directory count twice"
            raise InputError(what, where=folder, got=place, fix="remove the link")
        visited.add(place)
        files_of.append((folder, sorted(name for name in files if name[0] != ".")))
    return [Path(folder, name) for folder, names in sorted(files_of) for name in names]


def labelled_files(files: Iterable[tuple[Path, int]], stored: Stored) -> Labelled:
    """Images in files of their own, from pairs of path and label."""
    pairs = list(files)
    images = FileImages(tuple(path for path, _ in pairs), stored)
    labels = np.array([label for _, label in pairs], dtype=np.int64)
    return Labelled.all_of(images, labels, images.place)


def read_text(file: Path, accepted: str) -> str:
    """The text of a file that belongs to a layout, which the message names if it cannot be read."""
    try:
        with opened(file) as content:
            return content.read().decode("utf-8-sig")
    except (OSError, ValueError) as error:
        what = f"{file.name} cannot be read"
        raise InputError(what, where=file, got=error, allowed=accepted) from error


def _directories(parent: Path) -> tuple[str, ...]:
    return tuple(path.name for path in entries(parent) if path.is_dir())


def _splits(directories: Sequence[str], test_split: str | None, root: Path) -> Splits:
    """The directories of the splits; where there is none, the training set is the root itself."""
    if any(kind_of(name) == "train" for name in directories):
        return choose_splits(directories, test_split, root)
    if test_split is not None:
        what, got = "data.test_split needs train/", listed([f"{name}/" for name in directories])
        raise InputError(what, where=root, got=got or "no directory", allowed=LAYOUT)
    held = [f"{name}/" for name in directories if kind_of(name)]
    if held:
        what, got = f"{listed(held)} without train/", listed([f"{name}/" for name in directories])
        fix = "add train/; if it is a class, move all classes into train/"
        raise InputError(what, where=root, got=got, allowed=LAYOUT, fix=fix)
    return Splits("", None, None)


def _files(split: Path, names: tuple[str, ...]) -> Iterator[tuple[Path, int]]:
    """Each file of a split, image or not, with the label of its class."""
    own = _directories(split)
    for name, label in zip(own, places(own, names, split), strict=True):
        yield from ((path, label) for path in files_below(split / name))


def _loose_images(split: Path) -> list[Path]:
    return sorted(
        path for path in split.iterdir() if is_image(path) and path.name[0] != "." and path.is_file()
    )


def _notes(
    loose: Sequence[Path], files: Sequence[Path], unused: Sequence[str], root: Path
) -> tuple[str, ...]:
    """What is not read: images of no class, files that are no images, directories that are no split."""
    return (*_of_no_class(loose), *_not_read(files), *unused_splits(unused, root))


def _of_no_class(images: Sequence[Path]) -> Iterator[str]:
    """A sentence on images that lie beside the directories of the classes."""
    if images:
        yield f"images beside the class directories are not read: {len(images):,}, such as {images[0]}"


def _of_tables(tables: Sequence[Path]) -> Iterator[str]:
    """A sentence on tables, which may say the classes of images that lie otherwise."""
    if tables:
        root = tables[0].parent if tables[0].name in METADATA else tables[0]
        yield f"{tables[0]} is not read; it would be by data.name=manifest data.root={root}"


def _not_read(files: Sequence[Path]) -> Iterator[str]:
    """A sentence on files in class directories that are no images, or none that can be decoded."""
    others = [path for path in files if not is_image(path) and path.name.lower() not in CLUTTER]
    if others:
        suffixes = Counter(path.suffix or "no suffix" for path in others)
        kinds = ", ".join(f"{count:,} of {suffix}" for suffix, count in suffixes.most_common(MOST_NAMED))
        more = f" and {len(suffixes) - MOST_NAMED} more suffixes" if len(suffixes) > MOST_NAMED else ""
        yield f"files of other kinds than images are not read: {kinds}{more}, such as {others[0]}"
