"""From the data section of a recipe to a checked dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ffds.data.content import check_images
from ffds.data.dataset import Dataset, Split
from ffds.data.long_tail import held_out, tail_rows
from ffds.data.source import Labelled, Source, check_labels
from ffds.data.sources.class_names import labels_among
from ffds.data.sources.registry import SOURCES
from ffds.data.storage import keep_images, without_unreadable
from ffds.environment import is_first_rank
from ffds.errors import InputError, note
from ffds.recipes.schema import Data
from ffds.seeding import derived_seed

__all__ = ["checked_source", "completed", "open_dataset", "open_labelled", "open_source", "readable_part"]
__all__ += ["splits_of"]

MOST_NAMED = 10


def open_dataset(data: Data, source: Source | None = None) -> Dataset:
    """The long-tailed training set, its test set and, where asked for, its validation set.

    Without `data.imbalance_factor` the training images are all kept, in the order of the source. With it
    they come class by class in the order of the reference shuffle. The validation set is the one that the
    data bring, as it is, or else held out of what is kept, at random and per class, and at least one image of
    each class stays. What lies there and is not used is said on standard error.

    Args:
        data: the data section of a recipe.
        source: the images, where they are not read from where `data` says.

    Raises:
        InputError: files are missing or broken, a label is out of range, a class has no training image,
            there is one class only or no test image, the tail asked for cannot be cut, or these are not the
            images of `data.images`.

    >>> open_dataset(Data(name="digits", imbalance_factor=10.0)).class_counts
    [124, 96, 74, 57, 44, 34, 26, 20, 16, 12]
    """
    source = open_source(data, source)
    splits = splits_of(source, data)
    train, test, *rest = keep_images(data, [*splits.values()], source.description)
    validation = rest[0] if rest else None
    names = source.class_names
    for text in source.notes if is_first_rank() else ():
        note(f"note: {text}")
    left_out = (source.skipped, source.notes)
    return Dataset(data.name, source.description, names, train, test, validation, *left_out)


def open_labelled(data: Data, class_names: Sequence[str]) -> Split:
    """Your own labelled images, to score a network on that was trained on classes of these names.

    Where they have splits it is the test set, or else the validation set or the training set; otherwise all
    of them. A part of the classes, in any order, is enough. What is scored is said on standard error.

    Raises:
        InputError: there are none, one cannot be read, or they have a class that the network does not know.
    """
    source = SOURCES[data.name].open_labelled(data)
    split = source.test
    check_labels(split.labels, len(source.class_names), split.place_of)
    notes = source.notes
    if data.on_bad_image == "skip":
        ((split, _, skipped),) = without_unreadable(data, [split])
        notes += tuple(f"left out: {line}" for line in skipped)
    labels = labels_among(class_names, source.class_names, split.labels, source.description)
    (images,) = keep_images(data, [replace(split, labels=labels)], source.description)
    scored = f"scored: the {len(images):,} images of {source.description}"
    for text in (scored, *notes) if is_first_rank() else ():
        note(f"note: {text}")
    return images


def open_source(data: Data, source: Source | None = None) -> Source:
    """The checked source: every label in range, every class with a training image, a test set.

    With ``data.on_bad_image="skip"`` all images are decoded here, and those that cannot be are left out
    before anything is counted.
    """
    source = checked_source(data, source)
    if data.on_bad_image == "skip":
        splits = [source.train, source.test, *([] if source.validation is None else [source.validation])]
        (_, readable, skipped), *_ = checked = without_unreadable(data, splits)
        skipped += tuple(line for _, _, lines in checked[1:] for line in lines)
        source = readable_part(source, [kept for kept, _, _ in checked], readable, skipped)
    return completed(source, data)


def checked_source(data: Data, source: Source | None = None) -> Source:
    """The source with every label in range, as it lies there: no image is decoded or left out.

    Raises:
        InputError: files are missing or broken, a label is out of range, or these are not the images of
            `data.images`.
    """
    source = source or SOURCES[data.name].open(data)
    if data.test_split is not None and source.test_split is None:
        what, fix = "data.test_split chooses among splits with names, which are not there", "set it to null"
        raise InputError(what, where=source.description, got=data.test_split, fix=fix)
    check_images(data, source)
    splits = [source.train, source.test]
    if source.validation is not None:
        splits.append(source.validation)
    for split in splits:
        check_labels(split.labels, len(source.class_names), split.place_of)
    if source.ranks is not None:
        _check_ranks(source.train.labels, source.ranks, source.description)
        source = replace(source, carried=source.counts)
    return source


def readable_part(
    source: Source, splits: Sequence[Labelled], train: NDArray[np.bool_], skipped: tuple[str, ...]
) -> Source:
    """The source with what can be read of its splits: training, test and, where there is one, validation.

    `train` marks which training images are left, and `skipped` has a line about each image that is not.
    """
    kept, test, *rest = splits
    ranks = None if source.ranks is None else source.ranks[train]
    validation = rest[0] if rest else None
    return replace(source, train=kept, test=test, validation=validation, ranks=ranks, skipped=skipped)


def completed(source: Source, data: Data) -> Source:
    """The source with its test set cut where it has none.

    Raises:
        InputError: a class has no training image, there is one class only, or a split has no image.
    """
    if source.cut_test:
        held = held_out(source.train.labels, data.test_fraction, derived_seed(data.seed, "test"), least=1)
        source = replace(source, train=source.train.take(~held), test=source.train.take(held))
    _check_classes(source)
    if source.validation is not None and data.validation:
        unused = f"data.validation={data.validation:g} is not used: the data bring a validation set"
        source = replace(source, notes=(*source.notes, unused))
    return source


def splits_of(source: Source, data: Data) -> dict[str, Labelled]:
    """Training images with their tail cut, test images and, where there are any, validation images."""
    splits = {"train": source.train.take(tail_rows(source, data)), "test": source.test}
    if source.validation is not None:
        return splits | {"validation": source.validation}
    if not data.validation:
        return splits
    kept = splits["train"]
    held = held_out(kept.labels, data.validation, derived_seed(data.seed, "validation"))
    if not held.any():
        got = f"data.validation = {data.validation} of {len(kept)} images"
        fix = "raise data.validation, or set it to 0"
        raise InputError("the validation set would be empty", got=got, fix=fix)
    return splits | {"train": kept.take(~held), "validation": kept.take(held)}


def _check_ranks(labels: NDArray[np.int64], ranks: NDArray[np.int64], where: str) -> None:
    """Within each class the ranks of a pre-cut pack are 0, 1, 2, ... in some order."""
    counts = np.bincount(labels)
    order = np.lexsort((ranks, labels))
    expected = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    wrong = order[ranks[order] != expected]
    if len(wrong):
        raise InputError(
            f"lt_rank does not number the images of class {labels[wrong[0]]}",
            where=f"{where}, row {wrong[0]}",
            got=ranks[wrong[0]],
            allowed="0, 1, 2, ... without gap or repetition in each class",
            fix="use all rows of the pack, and the label column by which it was cut",
        )


def _check_classes(source: Source) -> None:
    names, where = source.class_names, source.description
    if len(names) < 2:
        what, got = "a single class leaves nothing to tell apart", ", ".join(names) or "no class"
        got = "; ".join((got, *source.notes))
        raise InputError(what, where=where, got=got, allowed="2 classes or more")
    empty = [f"{c} ({names[c]})" for c, count in enumerate(source.counts) if count == 0]
    if empty:
        what = f"{len(empty)} of {len(names)} classes have no training image"
        more = f" and {len(empty) - MOST_NAMED} more" if len(empty) > MOST_NAMED else ""
        fix = "add images to these classes, or remove the classes"
        got = "; ".join((", ".join(empty[:MOST_NAMED]) + more, *source.skipped[:MOST_NAMED], *source.notes))
        raise InputError(what, where=where, got=got, fix=fix)
    if len(source.test) == 0:
        fix = "add test images, or give no test set to have one cut (data.test_fraction)"
        raise InputError("there is no test image", where=where, got="; ".join(source.notes), fix=fix)
    if source.validation is not None and len(source.validation) == 0:
        what, fix = "there is no validation image", "add validation images, or give no validation set"
        raise InputError(what, where=where, got="; ".join(source.notes), fix=fix)
