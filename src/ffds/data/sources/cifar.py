"""CIFAR-10 and CIFAR-100: the original batches, their archive, or Parquet files."""

from __future__ import annotations

import hashlib
import io
import pickle
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ffds.data.source import ArrayImages, Labelled, Source
from ffds.data.sources.archive import Archive
from ffds.data.sources.published import Published, open_published
from ffds.errors import InputError
from ffds.recipes.schema import Data

__all__ = ["CIFAR10", "CIFAR100", "Cifar", "open_cifar", "read_batch"]


@dataclass(frozen=True)
class Cifar:
    """The form in which one of the two datasets is published: its files with their md5 sums."""

    published: Published
    train: dict[str, str]
    test: dict[str, str]
    meta: dict[str, str]
    names_key: str
    label_key: str


CIFAR10 = Cifar(
    Published(
        title="CIFAR-10",
        archive=Archive(
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            md5="c58f30108f718f92721af3b95e74349a",
            folder="cifar-10-batches-py",
        ),
        marker="batches.meta",
        label_column="label",
        num_classes=10,
    ),
    train={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    test={"test_batch": "40351d587109b95175f43aff81a1287e"},
    meta={"batches.meta": "5ff9c542aee3614f3951f8cda6e48888"},
    names_key="label_names",
    label_key="labels",
)
CIFAR100 = Cifar(
    Published(
        title="CIFAR-100",
        archive=Archive(
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            md5="eb9058c3a382ffc7106e4002c42a8d85",
            folder="cifar-100-python",
        ),
        marker="meta",
        label_column="fine_label",
        num_classes=100,
    ),
    train={"train": "16019d7e3df5f24257cddd939b257f8d"},
    test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    meta={"meta": "7973b15100ade9c7d40fb424638fde48"},
    names_key="fine_label_names",
    label_key="fine_labels",
)


def open_cifar(data: Data) -> Source:
    """The sources `cifar10` and `cifar100`, in whichever form lies below `data.root`.

    Raises:
        InputError: nothing is there, or a file is not the published one.
    """
    cifar = CIFAR10 if data.name == "cifar10" else CIFAR100
    return open_published(data, cifar.published, partial(_batches, cifar))


def read_batch(file: Path, md5: str) -> dict[str, Any]:
    """One published pickle, read without running anything that may be in it.

    Its md5 sum is checked first, and the reader knows numpy arrays and plain containers only.

    Args:
        file: e.g. ``cifar-10-batches-py/data_batch_1``.
        md5: its published sum, in hex.

    Raises:
        InputError: the file is missing or is not the published one.
    """
    try:
        content = file.read_bytes()
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found != md5:
            raise pickle.UnpicklingError(f"md5 {found} where {md5} was published")
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
    except (OSError, pickle.UnpicklingError) as error:
        raise InputError(
            "a batch is not the published file",
            where=file,
            got=error,
            fix=f"remove {file.parent} and fetch it again: data.download=true",
        ) from error
    return dict(batch)


class _ArrayUnpickler(pickle.Unpickler):
    """Knows the three names that the published files use, and no other."""

    KNOWN: ClassVar = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) not in self.KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self.KNOWN[module, name]


def _batches(cifar: Cifar, folder: Path) -> Source:
    (meta,) = (read_batch(folder / name, md5) for name, md5 in cifar.meta.items())
    return Source(
        description=f"{cifar.published.title}, the original batches in {folder}",
        class_names=tuple(meta[cifar.names_key]),
        train=_split(cifar, folder, cifar.train),
        test=_split(cifar, folder, cifar.test),
    )


def _split(cifar: Cifar, folder: Path, files: dict[str, str]) -> Labelled:
    batches = [read_batch(folder / name, md5) for name, md5 in files.items()]
    rows = np.concatenate([batch["data"] for batch in batches])
    labels = np.concatenate([batch[cifar.label_key] for batch in batches]).astype(np.int64)
    images = np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return Labelled.all_of(ArrayImages(images), labels, f"{folder} row {{}}".format)
