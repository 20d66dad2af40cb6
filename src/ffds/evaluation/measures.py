"""The measures of a classifier, one row each; summaries, tables and pages show the rows of this table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any, Literal

__all__ = ["MEASURES", "Counts", "Measure", "Scores", "flat_summary", "mean", "measures_in", "percent"]


@dataclass(frozen=True)
class Counts:
    """Counts over all images of a test set, from which every measure is computed.

    Attributes:
        support: images of each class, in label order.
        correct: those of them that were classified correctly.
        predicted: images that were taken for this class.
        bin_correct: correct images in each of 15 equal bins (lower, upper] of the confidence, which is the
            largest softmax probability.
        bin_confidence: sum of the confidence in each bin.
        finite: whether all logits were finite.
        groups: labels by group, see `ffds.evaluation.groups`.
    """

    support: Sequence[int]
    correct: Sequence[int]
    predicted: Sequence[int]
    bin_correct: Sequence[int]
    bin_confidence: Sequence[float]
    finite: bool
    groups: Mapping[str, Sequence[int]]

    @property
    def per_class(self) -> list[float | None]:
        """Accuracy of each class; None for a class without test images."""
        return [percent(right, seen) for right, seen in zip(self.correct, self.support, strict=True)]


def _accuracy(counts: Counts) -> float | None:
    """Correct images of all images."""
    return percent(sum(counts.correct), sum(counts.support))


def _balanced_accuracy(counts: Counts) -> float | None:
    """Mean accuracy of the classes that have test images."""
    return mean(counts.per_class)


def _macro_f1(counts: Counts) -> float | None:
    """Mean of F1 = 2 TP / (TP + FN + TP + FP) over the classes that have test images."""
    columns = zip(counts.correct, counts.support, counts.predicted, strict=True)
    return mean(percent(2 * right, seen + predicted) if seen else None for right, seen, predicted in columns)


def _ece(counts: Counts) -> float | None:
    """Expected calibration error, Σ_b n_b/N · |accuracy_b − confidence_b|; None if a logit was not finite."""
    bins = zip(counts.bin_correct, counts.bin_confidence, strict=True)
    gaps = sum(abs(right - confidence) for right, confidence in bins)
    return 100 * gaps / sum(counts.support) if counts.finite else None


def _group_mean(group: str, counts: Counts) -> float | None:
    """Mean accuracy of the classes of a group."""
    per_class = counts.per_class
    return mean(per_class[label] for label in counts.groups[group])


Place = Literal["epoch", "comparison", "runs"]
"""The metrics and the line of each epoch; the columns of ``ffds compare``; the columns of ``runs.csv``."""


@dataclass(frozen=True)
class Measure:
    """One measure of a test set, in percent.

    Attributes:
        name: its key in ``summary.json``.
        title: the heading of its column.
        compute: its value from the counts; None without a test image for it.
        shown: places that show it; the summary and ``ffds eval`` hold every measure.
        smaller_is_better: whether the best value is the smallest.
    """

    name: str
    title: str
    compute: Callable[[Counts], float | None]
    shown: tuple[Place, ...] = ()
    smaller_is_better: bool = False


EVERYWHERE: tuple[Place, ...] = ("epoch", "comparison", "runs")
MEASURES = (
    Measure("accuracy", "accuracy", _accuracy, EVERYWHERE),
    Measure("balanced_accuracy", "balanced", _balanced_accuracy, ("comparison",)),
    Measure("macro_f1", "macro-F1", _macro_f1, ("comparison",)),
    Measure("ece", "ECE", _ece, ("comparison",), smaller_is_better=True),
    Measure("head", "head", partial(_group_mean, "head"), EVERYWHERE),
    Measure("middle", "middle", partial(_group_mean, "middle"), EVERYWHERE),
    Measure("tail", "tail", partial(_group_mean, "tail"), EVERYWHERE),
    Measure("many", "many", partial(_group_mean, "many")),
    Measure("medium", "medium", partial(_group_mean, "medium")),
    Measure("few", "few", partial(_group_mean, "few")),
)
"""Every measure, in the order of ``summary.json``. The first one, accuracy, is the result of a run."""


def measures_in(place: Place) -> list[Measure]:
    """The measures that a place shows, those of every epoch first.

    >>> [measure.title for measure in measures_in("comparison")]
    ['accuracy', 'head', 'middle', 'tail', 'balanced', 'macro-F1', 'ECE']
    """
    shown = [measure for measure in MEASURES if place in measure.shown]
    return sorted(shown, key=lambda measure: "epoch" not in measure.shown)


@dataclass(frozen=True)
class Scores:
    """Every measure of a test set by name, and the accuracy of each class; percent, None where not known."""

    measures: Mapping[str, float | None]
    per_class: list[float | None]

    @classmethod
    def of(cls, counts: Counts) -> Scores:
        """Every measure of these counts."""
        return cls({measure.name: measure.compute(counts) for measure in MEASURES}, counts.per_class)

    @property
    def accuracy(self) -> float | None:
        """The result of a run."""
        return self.measures["accuracy"]

    def all(self) -> dict[str, float | list[float | None] | None]:
        """Every measure and the accuracy of each class."""
        return {**self.measures, "per_class": self.per_class}

    def brief(self) -> dict[str, float | list[float | None] | None]:
        """What each epoch records: its measures and the accuracy of each class."""
        shown = {measure.name: self.measures[measure.name] for measure in measures_in("epoch")}
        return {**shown, "per_class": self.per_class}


def flat_summary(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A ``summary.json`` as one row: its three accuracies become three columns.

    >>> flat_summary({"seed": 0, "accuracy": {"last": 40.0, "best_epoch": 3}})
    {'seed': 0, 'accuracy_last': 40.0, 'accuracy_best_epoch': 3}
    """
    accuracies = {f"accuracy_{key}": value for key, value in summary["accuracy"].items()}
    pairs = ((accuracies if name == "accuracy" else {name: value}) for name, value in summary.items())
    return {name: value for pair in pairs for name, value in pair.items()}


def percent(part: int, whole: int) -> float | None:
    """100 · part / whole; None where the whole is 0."""
    return 100 * part / whole if whole else None


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are not None; None where all are."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
