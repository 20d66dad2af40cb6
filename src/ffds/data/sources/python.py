"""Datasets that are given from Python: of Hugging Face, of torchvision, or any of (image, label)."""

from __future__ import annotations

import copy
import hashlib
import operator
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, NoReturn

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset, Subset
from torchvision.datasets import DatasetFolder, VisionDataset
from torchvision.datasets.folder import default_loader

from ffds.data.decode import BATCH, FileImages, Stored, check_size, content_digests, decode_all, pixels_of
from ffds.data.pictures import picture
from ffds.data.source import ArrayImages, Decoded, Encoded, Images, Labelled, OnBad, Source
from ffds.data.sources.labels import Classes, FileLabels, plain
from ffds.data.sources.parquet import image_column, image_mode, label_column
from ffds.data.sources.splits import choose_splits, unused_splits
from ffds.environment import is_first_rank
from ffds.errors import InputError
from ffds.progress import track
from ffds.recipes.schema import Data

__all__ = ["open_python", "python_source"]

PROBED = 16
"""Images that are read twice, to tell whether they are the same each time."""
MANY = 1000
"""Images that take long enough to read for their progress to be shown."""
ACCEPTED = (
    "a datasets.Dataset, an ImageFolder or a map-style dataset of pairs (image, label); "
    "a pair (train, test) of these, or a mapping from names of splits to these"
)


class _Split(NamedTuple):
    """One dataset: its images and labels, how a row is called in a message, and notes."""

    images: Images
    labels: FileLabels
    place: Callable[[int], str]
    notes: tuple[str, ...]


def open_python(data: Data) -> NoReturn:
    """Refuse: the images of the source `python` are in the process that was given them, and nowhere else."""
    raise InputError(
        "the images of this recipe were given from Python",
        where=f"data.name={data.name}",
        fix="call ffds.train(recipe, data=…) with them again; "
        "to score the run on files: ffds eval RUN data.name=folder data.root=DIR",
    )


def python_source(given: object, data: Data) -> Source:
    """The source `python`, of datasets instead of files.

    Images are stored as in other sources: in colour, as squares of side `data.eval_resize` or else
    `data.image_size`, or as they are if neither is given. Those of an ImageFolder are its files; others are
    read once, one after the other. Classes are compared by name over splits. Without a test split the test
    set is cut from each class.

    Args:
        given: a dataset, a pair (train, test), or a mapping from the names of splits to datasets.
        data: the data section of the recipe.

    Raises:
        InputError: it is none of these, an item is no pair of an image and a label, or an image changes from
            one reading to the next, as with a random transform.
    """
    splits, unused, test_split = _splits(given, data)
    read = {role: _read(dataset, f"data[{name!r}]", data) for role, (name, dataset) in splits.items()}
    classes = Classes.of([read["train"].labels])
    labelled = {
        role: Labelled.all_of(one.images, classes.labels(one.labels), one.place) for role, one in read.items()
    }
    notes = [note for one in read.values() for note in (*one.notes, *classes.notes(one.labels))]
    train = labelled["train"]
    return Source(
        f"{type(splits['train'][1]).__name__} given from Python",
        classes.names,
        train=train,
        test=labelled.get("test", train.take(np.arange(0))),
        validation=labelled.get("validation"),
        cut_test="test" not in labelled,
        test_split=test_split,
        notes=(*dict.fromkeys(notes), *unused_splits(unused, Path("data"))),
    )


def _splits(given: Any, data: Data) -> tuple[dict[str, tuple[str, Any]], list[str], str | None]:
    """By role the name and the dataset of each split that is used; the names of others; that of the test."""
    if isinstance(given, tuple):
        if len(given) != 2:
            raise InputError("data is no pair", got=f"{len(given)} values", allowed=ACCEPTED)
        return dict(zip(("train", "test"), zip(("train", "test"), given, strict=True), strict=True)), [], None
    if not isinstance(given, Mapping):
        return {"train": ("train", given)}, [], None
    given = {str(name): dataset for name, dataset in given.items()}
    chosen = choose_splits(given, data.test_split, Path("data"))
    if chosen.train is None:
        got, allowed = ", ".join(given) or "no split", "train, and test or validation or both"
        raise InputError("no split for training", where="data", got=got, allowed=allowed)
    roles = {role: name for role, name in chosen._asdict().items() if name is not None}
    named = {role: (name, given[name]) for role, name in roles.items()}
    return named, sorted(set(given) - set(roles.values())), chosen.test


def _read(dataset: Any, name: str, data: Data) -> _Split:
    hub = sys.modules.get("datasets")
    if hub is not None and isinstance(dataset, hub.Dataset):
        return _read_hub(dataset, name, data)
    if isinstance(dataset, str | bytes) or not all(map(_has(dataset), ("__len__", "__getitem__"))):
        fix = "give the dataset itself: loader.dataset, or one that is not streamed"
        raise InputError("not a dataset", where=name, got=type(dataset).__name__, allowed=ACCEPTED, fix=fix)
    bare, transforms = _without_transforms(dataset, name)
    note = f"{name} is read without its transform ({{}}): ffds augments as data.augment says"
    notes = tuple(note.format(" ".join(one.split())) for one in dict.fromkeys(transforms))
    stored, names = Stored.of(data), _names(bare)
    if (samples := _samples(bare)) is not None:
        images = FileImages(tuple(Path(path) for path, _ in samples), stored)
        return _Split(images, _labels(name, [label for _, label in samples], names), images.place, notes)
    pixels, labels = _items(bare, name, stored)
    return _Split(ArrayImages(pixels), _labels(name, labels, names), lambda row: f"{name}[{row}]", notes)


def _has(dataset: object) -> Callable[[str], bool]:
    return lambda name: hasattr(type(dataset), name)


def _without_transforms(dataset: Any, name: str) -> tuple[Any, list[str]]:
    """A dataset of torchvision, or parts of such, without their transforms, and these as text."""
    if isinstance(dataset, Subset):
        bare, found = _without_transforms(dataset.dataset, name)
        return Subset(bare, dataset.indices), found
    if isinstance(dataset, ConcatDataset):
        parts = [_without_transforms(part, name) for part in dataset.datasets]
        return ConcatDataset([part for part, _ in parts]), [one for _, found in parts for one in found]
    if not isinstance(dataset, VisionDataset):
        return dataset, []
    joint = dataset.transforms is not None and dataset.transform is None and dataset.target_transform is None
    if dataset.target_transform is not None or joint:
        what, fix = "a dataset changes its labels", "give it without target_transform and transforms"
        raise InputError(what, where=name, got=type(dataset).__name__, fix=fix)
    bare = copy.copy(dataset)
    bare.transform = bare.transforms = None
    return bare, [] if dataset.transform is None else [repr(dataset.transform)]


def _names(dataset: Any) -> list[str] | None:
    """The names of the classes, where a dataset says them in `classes`."""
    if isinstance(dataset, Subset):
        return _names(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        parts = [_names(part) for part in dataset.datasets]
        return parts[0] if all(part == parts[0] for part in parts) else None
    names = getattr(dataset, "classes", None)
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return None
    return list(names)


def _samples(dataset: Any) -> list[tuple[str, int]] | None:
    """Path and label of each image, where it is a file that torchvision would read as we do."""
    if isinstance(dataset, Subset):
        inner = _samples(dataset.dataset)
        return None if inner is None else [inner[row] for row in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        parts = [_samples(part) for part in dataset.datasets]
        return None if None in parts else [one for part in parts for one in part or ()]
    if not isinstance(dataset, DatasetFolder) or dataset.loader is not default_loader:
        return None
    return list(dataset.samples) if type(dataset).__getitem__ is DatasetFolder.__getitem__ else None


def _labels(name: str, labels: Sequence[object], names: list[str] | None) -> FileLabels:
    try:
        values = pa.chunked_array([pa.array(labels)])
    except pa.ArrowException as error:
        what, allowed = "labels are not all of one kind", "whole numbers, or text"
        raise InputError(what, where=name, got=error, allowed=allowed) from error
    return FileLabels.of(Path(name), "label", plain(Path(name), "label", values), names)


def _items(dataset: Any, name: str, stored: Stored) -> tuple[NDArray[np.uint8], list[int | str]]:
    """The pixels (N, H, W, C) and the labels of all items."""
    rows = range(len(dataset))
    pixels, labels = np.empty((0, 1, 1, 3), dtype=np.uint8), []
    tracked = track(rows, f"images of {name} read") if len(rows) >= MANY and is_first_rank() else rows
    for row in tracked:
        one, label = _item(dataset, row, name, stored)
        if row == 0:
            pixels = np.empty((len(rows), *one.shape), dtype=np.uint8)
        check_size(f"{name}[{row}]", one.shape, pixels.shape[1:])
        pixels[row] = one
        labels.append(label)
    for row in np.unique(np.linspace(0, len(rows) - 1, PROBED).astype(int)).tolist() if rows else []:
        if not np.array_equal(_item(dataset, row, name, stored)[0], pixels[row]):
            what = "an image is another one each time it is read, as with a random transform"
            fix = "give the dataset without it: ffds augments as data.augment says"
            raise InputError(what, where=f"{name}[{row}]", fix=fix)
    return pixels, labels


def _item(dataset: Any, row: int, name: str, stored: Stored) -> tuple[NDArray[np.uint8], int | str]:
    place = f"{name}[{row}]"
    try:
        item = dataset[row]
    except Exception as error:  # code of the user's
        got = f"{type(error).__name__}: {error}"
        raise InputError("an item of a dataset cannot be read", where=place, got=got) from error
    if not isinstance(item, tuple | list) or len(item) != 2:
        got = f"{type(item).__name__}" + (f" of {len(item)}" if isinstance(item, tuple | list) else "")
        raise InputError("an item is no pair (image, label)", where=place, got=got, allowed=ACCEPTED)
    image, label = item
    try:
        return pixels_of(picture(image), stored), label if isinstance(label, str) else operator.index(label)
    except TypeError as error:
        what, allowed = "a label is neither a whole number nor text", "0 to C - 1, or a name"
        raise InputError(what, where=place, got=repr(label), allowed=allowed) from error
    except (ValueError, OSError) as error:  # an InputError among them
        raise InputError.joined([f"{place}: {error}"]) from error


def _read_hub(dataset: Any, name: str, data: Data) -> _Split:
    """A dataset of Hugging Face: its images as they are encoded, its labels by their names."""
    from datasets import Image

    notes: tuple[str, ...] = ()
    if dataset.format["type"] == "custom":
        notes = (f"{name} is read without its transform: ffds augments as data.augment says",)
    schema, plainly = dataset.features.arrow_schema, dataset.with_format(None)
    images, labels = (
        image_column(schema, data.image_column, name),
        label_column(schema, data.label_column, name),
    )
    stored = Stored.of(data, image_mode(schema, images))
    encoded = plainly.select_columns([images]).cast_column(images, Image(decode=False))
    values = plainly.select_columns([labels]).with_format("arrow")[:].column(0)
    values = plain(Path(name), labels, pa.chunked_array(values) if not len(values.chunks) else values)
    found = FileLabels.of(Path(name), labels, values, getattr(dataset.features[labels], "names", None))
    return _Split(_HubImages(encoded, images, stored, name), found, lambda row: f"{name}[{row}]", notes)


@dataclass(frozen=True)
class _HubImages:
    """The image column of a dataset of Hugging Face, not decoded."""

    dataset: Any
    column: str
    stored: Stored
    name: str
    files: ClassVar[tuple[Path, ...]] = ()

    def read(self, rows: NDArray[np.int64], on_bad: OnBad) -> Decoded:
        """The images at `rows`, in that order."""
        return decode_all(self.encoded(rows), len(rows), self.stored, on_bad)

    def encoded(self, rows: NDArray[np.int64]) -> Iterator[Sequence[Encoded]]:
        """The images at `rows` as they lie in the dataset, or as the files that it names."""
        for start in range(0, len(rows), BATCH):
            some = rows[start : start + BATCH].tolist()
            cells = [cell or {} for cell in self.dataset[some][self.column]]
            contents = [
                cell.get("bytes") or (Path(cell["path"]) if cell.get("path") else None) for cell in cells
            ]
            yield [
                Encoded(start + k, f"{self.name}[{row}]", content)
                for k, (row, content) in enumerate(zip(some, contents, strict=True))
            ]

    def origin(self, rows: NDArray[np.int64]) -> None:
        """They are in memory, or in files of the library."""

    def contents(self, rows: NDArray[np.int64]) -> list[bytes]:
        """sha256 of each of the images at `rows` as it is encoded, empty where a file cannot be read."""
        found: list[bytes] = []
        for batch in self.encoded(rows):
            for one in batch:
                if isinstance(one.content, Path):
                    found += content_digests([one.content])
                else:
                    found.append(hashlib.sha256(one.content or b"").digest())
        return found
