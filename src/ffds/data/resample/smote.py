"""SMOTE: images between neighbours of the same class, until all classes are equally large."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from ffds.data.dataset import Dataset, Split
from ffds.data.storage import machine_memory
from ffds.data.streaming import StreamedImages
from ffds.environment import ranks_here
from ffds.errors import InputError
from ffds.methods.base import Synthetic
from ffds.seeding import derived_seed

__all__ = ["balanced", "with_synthetic"]


def with_synthetic(dataset: Dataset, how: Synthetic | None) -> Dataset:
    """The dataset whose epochs draw from its `balanced` training images; unchanged where `how` is None."""
    if how is None:
        return dataset
    return replace(dataset, drawn=balanced(dataset.train, how, dataset.class_names))


def balanced(split: Split, how: Synthetic, class_names: Sequence[str]) -> Split:
    """The split, and after its images as many synthetic ones as make every class as large as the largest.

    A synthetic image is x + u·(x′ − x), pixel by pixel and rounded, for an image x of its class, one of the
    `how.neighbors` images x′ of the class that are nearest to it in pixel space, and u uniform in [0, 1).

    Args:
        split: images uint8 (N, H, W, C) in memory, at least one of each class.
        how: the number of neighbours, and the seed of what is drawn.
        class_names: in label order.

    Raises:
        InputError: a class has not more images than an image is to have neighbours, the images stay in their
            files or would not fit into the memory, or imbalanced-learn is not installed.

    Source: Chawla et al. 2002, in the implementation of imbalanced-learn.
    """
    counts: list[int] = np.bincount(split.labels, minlength=len(class_names)).tolist()
    present, most = [c for c, count in enumerate(counts) if count], max(counts)
    images = _in_memory(split, len(present) * most)
    rarest = min(present, key=counts.__getitem__)
    if counts[rarest] <= how.neighbors and counts[rarest] < most:
        raise _too_few(class_names[rarest], counts[rarest], how.neighbors)
    made = {label: _synthetic(images[split.labels == label], label, most, how) for label in present}
    labels = [np.full(len(of_class), label, dtype=np.int64) for label, of_class in made.items()]
    return Split(np.concatenate([images, *made.values()]), np.concatenate([split.labels, *labels]))


def _synthetic(own: NDArray[np.uint8], label: int, most: int, how: Synthetic) -> NDArray[np.uint8]:
    """Synthetic images of a class that has these of its own, so that there are `most` of both."""
    if len(own) == most:
        return own[:0]
    try:
        from imblearn.over_sampling import SMOTE
    except ImportError as error:
        what, fix = "SMOTE needs imbalanced-learn", "pip install 'ffds[resample]'"
        raise InputError(what, got=str(error), fix=fix) from error
    # imbalanced-learn wants a larger class beside; the neighbours come from the class itself.
    others = np.zeros((most, *own.shape[1:]), dtype=np.uint8)
    pixels = np.concatenate([own, others]).reshape(len(own) + most, -1).astype(np.float32)
    of_class = np.repeat([1, 0], [len(own), most])
    seed = derived_seed(how.seed, "smote", label) % 2**32
    smote = SMOTE(sampling_strategy={1: most}, k_neighbors=how.neighbors, random_state=seed)
    made = smote.fit_resample(pixels, of_class)[0][len(of_class) :]
    return np.asarray(made.round(), dtype=np.uint8).reshape(-1, *own.shape[1:])


def _in_memory(split: Split, total: int) -> NDArray[np.uint8]:
    """The images of the split, if they are in memory and `total` of their size fit there."""
    images, memory = split.images, machine_memory()
    needed = total * prod(images.shape[1:]) * ranks_here()
    if not isinstance(images, StreamedImages) and needed <= memory:
        return images
    got = f"{total:,} images of {needed / 2**30:.3g} GiB, {memory / 2**30:.3g} GiB of memory"
    if isinstance(images, StreamedImages):
        got = "images that stay in their files"
    fix = "data.in_memory=true if they fit, a smaller data.image_size, or method=over-sampling"
    raise InputError("SMOTE needs all images in memory, also those it makes up", got=got, fix=fix)


def _too_few(name: str, count: int, neighbors: int) -> InputError:
    what = f"class {name} has too few training images for SMOTE with {neighbors} neighbours"
    got, allowed = f"{count} image{'s' * (count > 1)}", f"at least {neighbors + 1}"
    fix = f"method.neighbors={count - 1}" if count > 1 else "add images to it, or take method=over-sampling"
    return InputError(what, got=got, allowed=allowed, fix=fix)
