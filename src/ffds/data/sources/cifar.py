"""CIFAR-10 and CIFAR-100: the original batches, their archive, or Parquet files."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ffds.data.source import ArrayImages, Labelled, Source
from ffds.data.sources.published import Published, open_published
from ffds.errors import InputError
from ffds.recipes.schema import Data

__all__ = ["PUBLISHED", "open_cifar"]

PUBLISHED = {
    "cifar10": Published(
        title="CIFAR-10",
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        folder="cifar-10-batches-py",
        marker="batches.meta",
        label_column="label",
        num_classes=10,
        train_images=5000,
        test_images=1000,
    ),
    "cifar100": Published(
        title="CIFAR-100",
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        folder="cifar-100-python",
        marker="meta",
        label_column="fine_label",
        num_classes=100,
        train_images=500,
        test_images=100,
    ),
}


def open_cifar(data: Data) -> Source:
    """The sources `cifar10` and `cifar100`, in whichever form lies below `data.root`."""
    return open_published(data, PUBLISHED[data.name], partial(_original, data.name))


def _original(name: str, folder: Path) -> Source:
    """The original batches, which torchvision reads after their md5 sums have been checked."""
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    # torchvision expects the folder's original name below its root; here it may have any.
    reader = type(kind.__name__, (kind,), {"base_folder": "."})
    try:
        _check_sums(kind, folder)
        with warnings.catch_warnings():
            # numpy warns about the arrays' old pickle format.
            warnings.simplefilter("ignore")
            splits = [reader(folder, train=train) for train in (True, False)]
    except OSError as error:
        raise InputError("a batch cannot be read", where=error.filename or folder, got=error) from error
    train, test = (
        Labelled.all_of(
            ArrayImages(np.ascontiguousarray(split.data)),
            np.array(split.targets, dtype=np.int64),
            f"{folder} row {{}}".format,
        )
        for split in splits
    )
    description = f"{PUBLISHED[name].title}, the original batches in {folder}"
    return Source(description, tuple(splits[0].classes), train, test)


def _check_sums(kind: Any, folder: Path) -> None:
    from torchvision.datasets.utils import calculate_md5

    for name, md5 in (*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])):
        file = folder / name
        got = f"md5 {calculate_md5(file)}" if file.is_file() else "no such file"
        if got != f"md5 {md5}":
            what, fix = "a batch is not the published file", "and fetch it again: data.download=true"
            raise InputError(what, where=file, got=got, allowed=f"md5 {md5}", fix=f"remove {folder} {fix}")
