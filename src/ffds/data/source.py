"""What a source gives: labels at once, images when they are asked for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ffds.errors import InputError
from ffds.recipes.schema import Data

__all__ = ["ArrayImages", "Decoded", "Encoded", "Images", "Labelled", "Origin", "Source"]
__all__ += ["check_labels", "check_links", "existing_root", "root_path"]

OnBad = Literal["stop", "skip"]


class Decoded(NamedTuple):
    """Images uint8 (N, H, W, C), and by position the file and fault of each that could not be read."""

    images: NDArray[np.uint8]
    bad: dict[int, str]


class Encoded(NamedTuple):
    """One image as it lies on disk: its place among those asked for, its name, its bytes or file."""

    position: int
    name: str
    content: bytes | Path | None


class Origin(NamedTuple):
    """What decoded images were made of: their files, and the sum of all that decides the pixels."""

    files: tuple[Path, ...]
    digest: str


class Images(Protocol):
    """Images of one split, not necessarily in memory."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files they are read from; none where they are in memory."""

    def read(self, rows: NDArray[np.int64], on_bad: OnBad) -> Decoded:
        """The images at `rows`, in that order."""

    def encoded(self, rows: NDArray[np.int64]) -> Iterator[Sequence[Encoded]]:
        """The images at `rows` as they lie on disk, in batches, in any order; none if they are in memory."""

    def origin(self, rows: NDArray[np.int64]) -> Origin | None:
        """What the images at `rows` are made of; None where they are in memory, or a file is not readable."""

    def contents(self, rows: NDArray[np.int64]) -> list[bytes]:
        """sha256 of each of the images at `rows` as it lies on disk, empty where a file cannot be read."""


@dataclass(frozen=True)
class ArrayImages:
    """Images already in memory: uint8 (N, H, W, C), and the N files they came from, if each had its own."""

    array: NDArray[np.uint8]
    files: tuple[Path, ...] = ()

    def read(self, rows: NDArray[np.int64], on_bad: OnBad) -> Decoded:
        """The images at `rows`; none of them can be bad."""
        return Decoded(self.array[rows], {})

    def encoded(self, rows: NDArray[np.int64]) -> Iterator[Sequence[Encoded]]:
        """None: they are in memory."""
        return iter(())

    def origin(self, rows: NDArray[np.int64]) -> None:
        """They are in memory."""

    def contents(self, rows: NDArray[np.int64]) -> list[bytes]:
        """sha256 of the pixels of each of the images at `rows`."""
        return [hashlib.sha256(image).digest() for image in np.ascontiguousarray(self.array[rows])]


@dataclass(frozen=True)
class Labelled:
    """Images with their labels, int64 (N,).

    `rows` are the places of the images in `images`, `index` their places in the original order of the
    dataset, both int64 (N,). `place` names a row for a message, e.g. by file and row.
    """

    images: Images
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]
    index: NDArray[np.int64]
    place: Callable[[int], str]

    @classmethod
    def all_of(cls, images: Images, labels: NDArray[np.int64], place: Callable[[int], str]) -> Self:
        """Every image, in the original order."""
        everything = np.arange(len(labels))
        return cls(images, labels, everything, everything, place)

    def __len__(self) -> int:
        return len(self.labels)

    def place_of(self, position: int) -> str:
        """Where the image at a position lies, for a message."""
        return self.place(int(self.rows[position]))

    def take(self, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> Labelled:
        """The images at `chosen`, positions or a mask."""
        return replace(self, labels=self.labels[chosen], rows=self.rows[chosen], index=self.index[chosen])


@dataclass(frozen=True)
class Source:
    """A dataset before its tail is cut; `description` says where it came from.

    Where there are no test images (`cut_test`), a part of `train` is to become them. `validation` is a
    validation set that the data bring. `test_split` is the name of the test set, where splits have names.
    `ranks` int64 (N,) of a pre-cut pack are the places of its training images in the shuffle of their class,
    `carried` the images of each class in it, readable or not. `skipped` has a line about each image that
    cannot be read, `notes` about whatever else lies there and is not used.
    """

    description: str
    class_names: tuple[str, ...]
    train: Labelled
    test: Labelled
    validation: Labelled | None = None
    cut_test: bool = False
    test_split: str | None = None
    ranks: NDArray[np.int64] | None = None
    carried: tuple[int, ...] | None = None
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> tuple[int, ...]:
        """Training images of each class."""
        return tuple(np.bincount(self.train.labels, minlength=len(self.class_names)).tolist())


def check_labels(labels: NDArray[np.int64], num_classes: int, place: Callable[[int], str]) -> None:
    """Refuse labels outside of 0 to `num_classes` - 1; `place` names the one at a position."""
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        first = int(outside[0])
        what = f"{len(outside)} labels are out of range, the first at index {first}"
        allowed = f"0 to {num_classes - 1}, one of {num_classes} classes"
        hidden = "-1 stands for a hidden label: name a split that has labels, data.test_split=NAME"
        fix = hidden if labels[first] == -1 else ""
        raise InputError(what, where=place(first), got=labels[first], allowed=allowed, fix=fix)


def check_links(root: Path, source: Source) -> None:
    """Refuse files that a link, of their own or of a directory, takes from outside of the data.

    The directory of the data may itself be a link, and in the hub's cache the blobs belong to a snapshot.
    """
    real = Path(os.path.realpath(root))
    within = [real, *(one.parent / "blobs" for one in real.parents if one.name == "snapshots")]
    inside: dict[Path, bool] = {}
    splits = (source.train, source.test, source.validation)
    for file in (file for split in splits if split is not None for file in split.images.files):
        for place in (file.parent, file):
            if place not in inside and (place != file or file.is_symlink()):
                target = Path(os.path.realpath(place))
                inside[place] = any(map(target.is_relative_to, within))
                if not inside[place]:
                    what = "a link leads out of the directory of the data"
                    fix = "copy what it leads to (cp -rL); only data.root itself may be a link to elsewhere"
                    raise InputError(what, where=file, got=os.path.realpath(file), fix=fix)


def root_path(root: str) -> Path:
    """`data.root` as a path, whether or not anything lies there; ``~`` is the user's home."""
    try:
        return Path(root).expanduser()
    except RuntimeError as error:
        got = f"{root}: {error}"
        raise InputError("data.root is no path", got=got, fix="give a directory: data.root=DIR") from error


def existing_root(data: Data, accepted: str, fix: str = "give its directory: data.root=DIR") -> Path:
    """The directory of the data; the message names the layouts `accepted` where it cannot be read."""
    if data.root is None:
        raise InputError(f"{data.name} needs data.root", got="null", allowed=accepted, fix=fix)
    root = root_path(data.root)
    try:
        next(root.iterdir(), None)
    except OSError as error:
        what, got = "data.root is not a directory that can be read", error.strerror or error
        raise InputError(what, where=root, got=got, allowed=accepted, fix=fix) from error
    return root
