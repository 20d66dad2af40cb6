"""What must hold of a source before anything is trained on it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ffds.data.source import Labelled, Source
from ffds.errors import InputError

__all__ = ["check_classes", "check_labels", "check_ranks"]

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
