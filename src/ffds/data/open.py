"""From the data section of a recipe to a dataset."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ffds.data.dataset import Dataset
from ffds.data.long_tail import held_out, tail_rows
from ffds.data.source import Labelled, Source
from ffds.data.sources.registry import SOURCES
from ffds.data.storage import keep_images, without_unreadable
from ffds.errors import InputError
from ffds.recipes.schema import Data
from ffds.seeding import derived_seed

__all__ = ["check_classes", "check_labels", "check_ranks", "open_dataset", "open_source"]

NAMED_AT_MOST = 10


def check_labels(split: Labelled, num_classes: int) -> None:
    """Every label is in 0 .. C - 1.

    Raises:
        InputError: with the index, place and value of the first that is not.
    """
    outside = np.flatnonzero((split.labels < 0) | (split.labels >= num_classes))
    if len(outside):
        first = int(outside[0])
        raise InputError(
            f"{len(outside)} labels are out of range, the first at index {first}",
            where=split.place(int(split.rows[first])),
            got=split.labels[first],
            allowed=f"0 to {num_classes - 1}, one of {num_classes} classes",
        )


def check_ranks(labels: NDArray[np.int64], ranks: NDArray[np.int64], where: object) -> None:
    """Within each class the ranks of a pre-cut pack are 0, 1, 2, ... in some order.

    Raises:
        InputError: they are not, e.g. because another label column is asked for than the pack was cut by.
    """
    counts = np.bincount(labels)
    order = np.lexsort((ranks, labels))
    expected = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    wrong = np.flatnonzero(ranks[order] != expected)
    if len(wrong):
        row = order[wrong[0]]
        raise InputError(
            f"lt_rank does not number the images of class {labels[row]}",
            where=f"{where}, row {row}",
            got=ranks[row],
            allowed="0, 1, 2, ... without gap or repetition in each class",
            fix="a pack keeps its meaning with all of its rows and the label column it was cut by",
        )


def check_classes(source: Source) -> None:
    """At least two classes, each with a training image, and a test image.

    Raises:
        InputError: naming the classes without one.
    """
    if len(source.class_names) < 2:
        raise InputError(
            "a single class leaves nothing to tell apart",
            where=source.description,
            got=", ".join(source.class_names) or "no class",
            allowed="2 classes or more",
        )
    empty = [f"{c} ({source.class_names[c]})" for c, count in enumerate(source.counts) if count == 0]
    if empty:
        more = f" and {len(empty) - NAMED_AT_MOST} more" if len(empty) > NAMED_AT_MOST else ""
        raise InputError(
            f"{len(empty)} of {len(source.class_names)} classes have no training image",
            where=source.description,
            got=", ".join(empty[:NAMED_AT_MOST]) + more,
            fix="add images to these classes, or remove the classes",
        )
    if len(source.test) == 0:
        raise InputError(
            "there is no test image",
            where=source.description,
            fix="add a test set, or leave it out altogether to have one cut (data.test_fraction)",
        )


def open_dataset(data: Data) -> Dataset:
    """The long-tailed training set, its test set and, where asked for, its validation set.

    Without `data.imbalance_factor` the training images are all kept, in the order of the source. With it
    they come class by class in the order of the reference shuffle. The validation images are held out of
    what is kept, at random and per class, and at least one image of each class stays. Images in files of
    their own are left there where `data.in_memory` says so, see `storage.stay_in_files`.

    Args:
        data: the data section of a recipe.

    Raises:
        InputError: files are missing or broken, a label is out of range, a class has no training image,
            there is one class only or no test image, or the tail asked for cannot be cut.

    >>> dataset = open_dataset(Data(name="digits", imbalance_factor=10.0))
    >>> dataset.class_counts
    [124, 96, 74, 57, 44, 34, 26, 20, 16, 12]
    """
    source = open_source(data)
    train = source.train.take(tail_rows(source, data))
    validation = None
    if data.validation:
        train, validation = _without_validation(train, data)
    splits = [train, source.test] if validation is None else [train, source.test, validation]
    kept = keep_images(data, splits, source.description)
    return Dataset(
        name=data.name,
        source=source.description,
        class_names=source.class_names,
        train=kept[0],
        test=kept[1],
        validation=None if validation is None else kept[2],
        skipped=source.skipped,
    )


def open_source(data: Data) -> Source:
    """The checked source: every label in range, every class with a training image, a test set.

    With ``data.on_bad_image="skip"`` all images are decoded here, and those that cannot be are left out
    before anything is counted.

    Raises:
        InputError: see `open_dataset`.
    """
    source = SOURCES[data.name].open(data)
    for split in (source.train, source.test):
        check_labels(split, len(source.class_names))
    if source.ranks is not None:
        check_ranks(source.train.labels, source.ranks, source.description)
        source = replace(source, carried=source.counts)
    if data.on_bad_image == "skip":
        source = _without_unreadable(source, data)
    if source.cut_test:
        test = held_out(source.train.labels, data.test_fraction, derived_seed(data.seed, "test"), least=1)
        source = replace(source, train=source.train.take(~test), test=source.train.take(test))
    check_classes(source)
    return source


def _without_unreadable(source: Source, data: Data) -> Source:
    (train, sound, skipped), (test, _, skipped_of_test) = without_unreadable(
        data, (source.train, source.test)
    )
    ranks = None if source.ranks is None else source.ranks[sound]
    return replace(source, train=train, test=test, ranks=ranks, skipped=skipped + skipped_of_test)


def _without_validation(train: Labelled, data: Data) -> tuple[Labelled, Labelled]:
    held = held_out(train.labels, data.validation, derived_seed(data.seed, "validation"))
    if not held.any():
        raise InputError(
            "the validation set would be empty",
            got=f"data.validation = {data.validation} of {len(train)} images",
            fix="raise data.validation, or set it to 0",
        )
    return train.take(~held), train.take(held)
