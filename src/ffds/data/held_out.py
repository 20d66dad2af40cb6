"""Holding a part of every class out: the test cut of data without one, and the validation set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["held_out", "part_of_each_class"]


def part_of_each_class(labels: NDArray[np.int64], sizes: Sequence[int], seed: int) -> NDArray[np.bool_]:
    """Mark `sizes[c]` images of each class c, chosen at random.

    Args:
        labels: (N,), in 0 .. C - 1.
        sizes: images to mark of each class, C values, none above what the class has.
        seed: any integer >= 0.

    Returns:
        A mask (N,).
    """
    # RandomState's stream is frozen, so a split is the same under every numpy.
    stream = np.random.RandomState(seed % 2**32)
    marked = np.zeros(len(labels), dtype=np.bool_)
    for c, size in enumerate(sizes):
        marked[stream.permutation(np.flatnonzero(labels == c))[:size]] = True
    return marked


def held_out(labels: NDArray[np.int64], fraction: float, seed: int, least: int = 0) -> NDArray[np.bool_]:
    """Mark the nearest whole number to `fraction` of each class, but never all of it.

    Args:
        labels: (N,), integers >= 0.
        fraction: part of each class to mark, between 0 and 1.
        seed: any integer >= 0.
        least: images to mark at least, in a class that has more than that.

    Returns:
        A mask (N,).

    >>> held_out(np.array([0, 0, 0, 0, 1]), 0.2, seed=0, least=1).sum()
    np.int64(1)
    """
    sizes = [
        max(min(max(round(count * fraction), least), count - 1), 0) for count in np.bincount(labels).tolist()
    ]
    return part_of_each_class(labels, sizes, seed)
