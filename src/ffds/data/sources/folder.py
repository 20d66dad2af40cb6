"""An image folder: one directory a class."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from ffds.data.decode import FileImages, Stored
from ffds.data.source import Labelled, Source, existing_root
from ffds.errors import InputError, nearest
from ffds.recipes.schema import Data

__all__ = ["LAYOUT", "images_below", "labelled_files", "open_folder", "read_text"]

LAYOUT = "train/CLASS/* with test/CLASS/* (or val/), or CLASS/* to be split by data.test_fraction"
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
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
    train = labelled_files(_files(train_directory, names), stored)
    tested = labelled_files([] if test is None else _files(test, names), stored)
    return Source(f"image folder {root}", names, train, tested, cut_test=test is None)


def images_below(directory: Path) -> list[Path]:
    """The image files in and below a directory, in torchvision's order: by directory, then by name."""
    visited: set[str] = set()
    files_of = []
    for folder, _, files in os.walk(directory, onerror=_unreadable, followlinks=True):
        place = os.path.realpath(folder)
        if place in visited:
            what = "a link makes a directory count twice"
            raise InputError(what, where=folder, got=place, fix="remove the link")
        visited.add(place)
        images = [name for name in files if Path(name).suffix.lower() in SUFFIXES and name[0] != "."]
        files_of.append((folder, sorted(images)))
    return [Path(folder, name) for folder, images in sorted(files_of) for name in images]


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
    """Each image file of a split with its label."""
    label_of = {name: label for label, name in enumerate(names)}
    for name in _directories(split):
        if name not in label_of:
            what, allowed = f"class {name} has test images but no training directory", ", ".join(names[:20])
            raise InputError(what, where=split / name, allowed=allowed, fix=nearest(name, names))
        yield from ((path, label_of[name]) for path in images_below(split / name))
