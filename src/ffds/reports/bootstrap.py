"""Intervals by the bootstrap over test images, of one run's measures and of the differences of two runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["RESAMPLES", "Interval", "interval", "measures_of", "resampled_measures"]

RESAMPLES = 400
"""Resamples of the test set behind each interval: its width is known to about 4 %."""
SEED = 0
NORMAL_95 = 1.96

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """A value with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside: of a difference, that it is more than chance in the test images."""
        return self.low > 0 or self.high < 0


def interval(value: float, resampled: Floats, low: float = 0.0, high: float = 100.0) -> Interval:
    """Value ± 1.96 standard deviations over the resamples (B,), cut to the range of the measure.

    It always contains the value. The percentiles of the resamples need not: F1 is no mean over images, and
    with few images in each of many classes its resamples lie below it.

    >>> interval(99.0, np.array([98.0, 99.0, 100.0]))
    Interval(value=99.0, low=97.04, high=100.0)
    """
    error = NORMAL_95 * float(np.std(resampled, ddof=1))
    return Interval(value, max(value - error, low), min(value + error, high))


def resampled_measures(
    label: Integers,
    predictions: Sequence[Integers],
    groups: Mapping[str, Sequence[int]],
    classes: int,
    resamples: int = RESAMPLES,
) -> list[dict[str, Floats]]:
    """Measures (B,) of each of several classifiers on the same B resamples of the same test images.

    A resample draws, within each class, as many of its test images as there are, with replacement: so every
    class keeps its images, as in a test set of fixed class sizes. A class with one image never varies.

    Args:
        label: class of each of the N test images.
        predictions: of each classifier the class that each image was taken for, −1 for none.
        groups: labels by group; a group without a test image has no measure.
        classes: number of classes C.
        resamples: B.

    Returns:
        For each classifier, percent by the names of `ffds.evaluation.measures`, without ECE.
    """
    random = np.random.default_rng(SEED)
    order = np.argsort(label, kind="stable")
    support = np.bincount(label, minlength=classes)
    size = support[label[order]].astype(np.float64)
    start = (np.cumsum(support) - support)[label[order]]
    cells = [_Cells(label, prediction, order, classes) for prediction in predictions]
    sums = [np.zeros((2, resamples, classes), dtype=np.int64) for _ in predictions]
    for resample in range(resamples):
        drawn = (start + random.random(len(label)) * size).astype(np.int64)
        for own, kept in zip(cells, sums, strict=True):
            kept[:, resample] = own.sums(drawn)
    return [measures_of(support, correct, predicted, groups) for correct, predicted in sums]


def measures_of(
    support: Integers, correct: Integers, predicted: Integers, groups: Mapping[str, Sequence[int]]
) -> dict[str, Floats]:
    """Measures (B,) in percent from test images (C,), correct (B, C) and predicted images (B, C)."""
    tested = support > 0
    recall = 100 * correct[:, tested] / support[tested]
    f1 = 200 * correct[:, tested] / (support + predicted)[:, tested]
    place = np.cumsum(tested) - 1
    measures = {
        "accuracy": 100 * correct.sum(axis=1) / support.sum(),
        "balanced_accuracy": recall.mean(axis=1),
        "macro_f1": f1.mean(axis=1),
    }
    for name, labels in groups.items():
        columns = [place[one] for one in labels if tested[one]]
        if columns:
            measures[name] = recall[:, columns].mean(axis=1)
    return measures


class _Cells:
    """The pairs of label and prediction that occur, by which images are counted: fewer than images."""

    def __init__(self, label: Integers, prediction: Integers, order: Integers, classes: int) -> None:
        # A prediction of no class counts in a column of its own, which is left out at the end.
        column = np.where(prediction < 0, classes, prediction)
        cells, of_image = np.unique((label * (classes + 1) + column)[order], return_inverse=True)
        row, self._column = np.divmod(cells, classes + 1)
        self._of_image, self._classes = of_image.astype(np.int32), classes
        right = row == self._column
        self._right, self._right_row = np.flatnonzero(right), row[right]

    def sums(self, drawn: Integers) -> NDArray[np.float64]:
        """Correct and predicted images of each class (2, C) among the drawn ones."""
        images = np.bincount(self._of_image[drawn], minlength=len(self._column))
        sums = np.zeros((2, self._classes))
        sums[0, self._right_row] = images[self._right]
        sums[1] = np.bincount(self._column, weights=images, minlength=self._classes + 1)[: self._classes]
        return sums
