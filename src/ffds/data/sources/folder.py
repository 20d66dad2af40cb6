"""An image folder: one directory a class."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from ffds.data.decode import SUFFIXES, FileImages, Stored
from ffds.data.source import Labelled, Source, existing_root
from ffds.errors import InputError, nearest
from ffds.recipes.schema import Data

__all__ = ["LAYOUT", "files_below", "is_image", "labelled_files", "open_folder", "read_text"]

LAYOUT = "train/CLASS/* with test/CLASS/* (or val/), or CLASS/* to be split by data.test_fraction"
CLUTTER = {"thumbs.db", "desktop.ini"}
"""Files that Windows leaves in any directory, passed over like hidden ones without a word."""
MOST_NAMED = 10
"""Suffixes in a note."""
TEST_NAMES = ("test", "val", "valid", "validation")
SPLIT_OF = {"train": "train", "training": "train", "testing": "test"} | {name: name for name in TEST_NAMES}
"""Lower-case directory name → the split it was most likely meant for."""


def open_folder(data: Data) -> Source:
    """The source `folder`: class order is that of the sorted directory names.

    Images are stored as squares of side `data.eval_resize` or else `data.image_size` (see `decode.Stored`),
    or as they are if neither is given. The first of the directories test, val, valid, validation is the test
    set; without one the test set is cut from each class.
    """
    root = existing_root(data, LAYOUT)
    stored = Stored(data.eval_resize or data.image_size)
    test = next((root / name for name in TEST_NAMES if (root / name).is_dir()), None)
    train_directory = root / "train" if (root / "train").is_dir() else root
    if train_directory == root and test is not None:
        raise InputError(f"{test.name}/ without train/", where=root, allowed=LAYOUT)
    names = _directories(train_directory)
    if not names:
        raise InputError("no class directories", where=train_directory, allowed=LAYOUT)
    if train_directory == root:
        _check_no_split(root, names, "; if it is a class, move all classes into train/")
    elif test is None:
        _check_no_split(root, [name for name in _directories(root) if name.casefold() in TEST_NAMES])
    files = [list(_files(train_directory, names)), [] if test is None else list(_files(test, names))]
    train, tested = (labelled_files([one for one in split if is_image(one[0])], stored) for split in files)
    loose = [path for place in (train_directory, test) if place for path in _loose_images(place)]
    notes = (*_of_no_class(loose), *_not_read([path for split in files for path, _ in split]))
    return Source(f"image folder {root}", names, train, tested, cut_test=test is None, notes=notes)


def is_image(file: Path) -> bool:
    """Whether the name of a file ends like that of an image in a format that is decoded."""
    return file.suffix.lower() in SUFFIXES


def files_below(directory: Path) -> list[Path]:
    """The files in and below a directory that are not hidden, in torchvision's order: by directory, name."""
    visited: set[str] = set()
    files_of = []
    for folder, directories, files in os.walk(directory, onerror=_unreadable, followlinks=True):
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
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        what = f"{file.name} cannot be read"
        raise InputError(what, where=file, got=error, allowed=accepted) from error


def _directories(parent: Path) -> tuple[str, ...]:
    try:
        return tuple(sorted(path.name for path in parent.iterdir() if path.is_dir() and path.name[0] != "."))
    except OSError as error:
        _unreadable(error)


def _unreadable(error: OSError) -> NoReturn:
    what, fix = "a directory cannot be read", "give the right to read it, or move it out of data.root"
    raise InputError(what, where=error.filename, got=error.strerror, fix=fix) from error


def _check_no_split(root: Path, names: Sequence[str], otherwise: str = "") -> None:
    meant = {name: SPLIT_OF[name.casefold()] for name in names if name.casefold() in SPLIT_OF}
    if meant:
        what, got = "a directory named as a split is not spelled like one", ", ".join(names[:20])
        renamed = ", ".join(f"{name}/ to {split}/" for name, split in meant.items())
        raise InputError(what, where=root, got=got, allowed=LAYOUT, fix=f"rename {renamed}{otherwise}")


def _files(split: Path, names: tuple[str, ...]) -> Iterator[tuple[Path, int]]:
    """Each file of a split, image or not, with the label of its class."""
    label_of = {name: label for label, name in enumerate(names)}
    for name in _directories(split):
        if name not in label_of:
            what, allowed = f"class {name} has test images but no training directory", ", ".join(names[:20])
            raise InputError(what, where=split / name, allowed=allowed, fix=nearest(name, names))
        yield from ((path, label_of[name]) for path in files_below(split / name))


def _loose_images(split: Path) -> list[Path]:
    return sorted(
        path for path in split.iterdir() if is_image(path) and path.name[0] != "." and path.is_file()
    )


def _of_no_class(images: Sequence[Path]) -> Iterator[str]:
    """A sentence on images that lie beside the directories of the classes."""
    if images:
        yield f"images beside the class directories are not read: {len(images):,}, such as {images[0]}"


def _not_read(files: Sequence[Path]) -> Iterator[str]:
    """A sentence on files in class directories that are no images, or none that can be decoded."""
    others = [path for path in files if not is_image(path) and path.name.lower() not in CLUTTER]
    if others:
        suffixes = Counter(path.suffix or "no suffix" for path in others)
        kinds = ", ".join(f"{count:,} of {suffix}" for suffix, count in suffixes.most_common(MOST_NAMED))
        more = f" and {len(suffixes) - MOST_NAMED} more suffixes" if len(suffixes) > MOST_NAMED else ""
        yield f"files of other kinds than images are not read: {kinds}{more}, such as {others[0]}"
