"""From the data section of a recipe to a dataset."""

from __future__ import annotations

from dataclasses import replace

from ffds.data.checks import check_classes, check_labels, check_ranks
from ffds.data.dataset import Dataset
from ffds.data.held_out import held_out
from ffds.data.source import Labelled, Source
from ffds.data.storage import kept, stay_in_files, without_unreadable
from ffds.data.tail import tail_rows
from ffds.errors import InputError
from ffds.randomness import derived_seed
from ffds.recipes.schema import Data

__all__ = ["open_dataset", "open_source"]


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
    split = kept(data, splits, source.description)
    return Dataset(
        name=data.name,
        source=source.description,
        class_names=source.class_names,
        train=split(train),
        test=split(source.test),
        validation=None if validation is None else split(validation),
        skipped=source.skipped,
    )


def open_source(data: Data) -> Source:
    """The checked source: every label in range, every class with a training image, a test set.

    With ``data.on_bad_image="skip"`` all images are decoded here, and those that cannot be are left out
    before anything is counted.

    Raises:
        InputError: see `open_dataset`.
    """
    source = _read(data).cached(data.cache)
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


def _read(data: Data) -> Source:
    # Each source brings its own libraries: pyarrow, Pillow, scikit-learn.
    match data.name:
        case "digits":
            from ffds.data.digits import open_digits

            return open_digits(data)
        case "cifar10" | "cifar100":
            from ffds.data.cifar import open_cifar

            return open_cifar(data)
        case "tiny-imagenet":
            from ffds.data.tiny_imagenet import open_tiny_imagenet

            return open_tiny_imagenet(data)
        case "ictext" | "ictext-sample":
            from ffds.data.ictext.open import open_ictext

            return open_ictext(data)
        case "parquet":
            from ffds.data.parquet import open_parquet

            return open_parquet(data)
        case "folder":
            from ffds.data.folder import open_folder

            return open_folder(data)


def _without_unreadable(source: Source, data: Data) -> Source:
    splits = source.train, source.test
    found = (
        without_unreadable(data, splits)
        if stay_in_files(data, splits)
        else [split.without_unreadable() for split in splits]
    )
    (train, sound, skipped), (test, _, skipped_of_test) = found
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
