"""The dataset: training, test and validation images with their labels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffds.data.decode import content_digests, unreadable
from ffds.data.streaming import StreamedImages

__all__ = ["Dataset", "Split"]


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, H, W, C) with C = 1 or 3, in memory or in their files, and labels int64 (N,).

    `files` are the N files, if each image has its own, whether or not its pixels are in memory. `features`,
    float32 (N, D), are what a frozen backbone makes of the images, where batches are to hold these instead.
    """

    images: NDArray[np.uint8] | StreamedImages
    labels: NDArray[np.int64]
    files: tuple[Path, ...] | None = None
    features: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> Split:
        """The images at `indices`, in that order; those in files stay there."""
        images = self.images
        taken = images.take(indices) if isinstance(images, StreamedImages) else images[indices]
        files = None if self.files is None else tuple(self.files[k] for k in np.arange(len(self))[indices])
        return Split(taken, self.labels[indices], files)

    @cached_property
    def digest(self) -> str:
        """Sum of images and labels, 16 hex digits: of the files' content, else of the pixels.

        Raises:
            InputError: a file cannot be opened.
        """
        if self.files is None:
            return self._sum(np.ascontiguousarray(self.images[:]).data)
        contents = content_digests(self.files)
        if not all(contents):
            raise unreadable(str(self.files[contents.index(b"")]), "no regular file that can be opened")
        return self._sum(b"".join(len(content).to_bytes(1, "big") + content for content in contents))

    @cached_property
    def earlier_digest(self) -> str:
        """The `digest` of earlier versions, in which files counted by name and size."""
        if self.files is None:
            return self.digest
        sizes = [f"{file.name}/{file.stat().st_size}/" for file in self.files]
        return self._sum(os.fsencode("".join(sizes)))

    def _sum(self, images: bytes | memoryview) -> str:
        digest = hashlib.sha256(f"{self.images.shape}".encode())
        digest.update(images)
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Dataset:
    """A long-tailed training set with its test set, which is never used to choose anything.

    `name` is that of the source, e.g. ``cifar100``, `source` says in words where the images came from.
    `class_names` are in label order. `validation` images are held out of training if `data.validation` asks
    for them. `skipped` names files that could not be read (`data.on_bad_image: skip`), `notes` says what else
    lies there and is not used. `drawn` is what epochs draw their images from, where a method adds
    synthetic ones: those of `train`, and after them the synthetic ones, which count nowhere else.
    """

    name: str
    source: str
    class_names: tuple[str, ...]
    train: Split
    test: Split
    validation: Split | None = None
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    drawn: Split | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.class_names)

    @property
    def class_counts(self) -> list[int]:
        """Training images of each class, in label order."""
        counts: list[int] = np.bincount(self.train.labels, minlength=self.num_classes).tolist()
        return counts

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint stores about its data, ready for JSON."""
        classes = {"class_counts": self.class_counts, "class_names": list(self.class_names)}
        return {**classes, "images": self.train.digest, "test_images": self.test.digest}

    @property
    def earlier_identity(self) -> dict[str, Any]:
        """What checkpoints of earlier versions stored, which knew files by name and size only."""
        identity = {**self.identity, "images": self.train.earlier_digest}
        del identity["test_images"]
        return identity

    def changes(self, identity: Mapping[str, Any]) -> str:
        """Which of its images a checkpoint's identity knows otherwise, with both sums; empty if none."""
        found = [
            f"{what} {split.digest} now, {identity[key]} then"
            for key, what, split in (
                ("images", "training images", self.train),
                ("test_images", "test images", self.test),
            )
            if identity.get(key, split.digest) not in (split.digest, split.earlier_digest)
        ]
        return "; ".join(found)

    @property
    def imbalance_factor(self) -> float:
        """Largest over smallest class count of the training set."""
        return max(self.class_counts) / min(self.class_counts)
