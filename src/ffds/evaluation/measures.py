"""Accuracy of the whole, of each class and of groups of classes, macro F1 and calibration, in percent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import fmean

import torch
import torch.distributed as dist
from torch import Tensor

from ffds.errors import InputError
from ffds.evaluation.groups import class_groups, shot_groups

__all__ = ["ClassAccuracy", "Evaluation", "Scores"]

BINS = 15
FIXED_POINT = 2**30


@dataclass(frozen=True)
class Scores:
    """What one evaluation found, in percent; None means n/a: no test image to judge by.

    Attributes:
        accuracy: correct images of all images.
        balanced_accuracy: mean of `per_class`.
        macro_f1: mean of F1 = 2 TP / (2 TP + FP + FN) over the classes that have test images.
        ece: expected calibration error, Σ_b n_b / N · |accuracy_b − confidence_b| over 15 equal bins
            (lower, upper] of the largest softmax probability; NaN if a logit was not finite.
        per_class: accuracy of each class, in label order.
        head: mean of `per_class` over the group of ``class_groups``.
        middle: as `head`.
        tail: as `head`.
        many: mean of `per_class` over the group of ``shot_groups``.
        medium: as `many`.
        few: as `many`.
    """

    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    ece: float
    per_class: list[float | None]
    head: float | None
    middle: float | None
    tail: float | None
    many: float | None
    medium: float | None
    few: float | None

    def brief(self) -> dict[str, float | list[float | None] | None]:
        """What each epoch records: accuracy, of the groups and of each class."""
        names = ("accuracy", "head", "middle", "tail", "per_class")
        return {name: getattr(self, name) for name in names}

    def summary(self) -> dict[str, float | None]:
        """All scores but those of each class; None where a score is not a number."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "per_class"}
        return {name: None if value is None or math.isnan(value) else value for name, value in values.items()}


class Evaluation:
    """Scores of a test set, gathered batch by batch in O(C) memory and without waiting for the device.

    An image with a logit that is not finite counts as wrong and as a prediction of no class.

    In a process group, every rank updates with its own images and all ranks call `compute`: the counts are
    summed over the ranks, so each image counts once. Counts are integers, also those of confidence, so the
    result is bit-equal for any batches and any number of ranks.

    Args:
        num_classes: C, at least 1.
        class_counts: training images of each class: they define the groups.
        cut: classes in head, middle and tail; None: thirds.
        device: where logits will be.

    Raises:
        InputError: `cut` or `class_counts` do not fit the number of classes.

    >>> evaluation = Evaluation(2, [90, 10], None, torch.device("cpu"))
    >>> evaluation.update(torch.tensor([[2.0, 0.0], [3.0, 1.0]]), torch.tensor([0, 1]))
    >>> evaluation.compute().per_class
    [100.0, 0.0]
    """

    def __init__(
        self,
        num_classes: int,
        class_counts: Sequence[int],
        cut: tuple[int, int, int] | None,
        device: torch.device,
    ) -> None:
        if len(class_counts) != num_classes:
            raise InputError(f"{len(class_counts)} class counts for {num_classes} classes")
        self._groups = class_groups(class_counts, cut) | shot_groups(class_counts)
        self._counts = _Counts(num_classes, device)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch.

        Args:
            logits: float (N, C).
            labels: int64 (N,), each in [0, C).
        """
        self._counts.update(logits, labels)

    def compute(self) -> Scores:
        """The scores of all images so far, over all ranks.

        Raises:
            InputError: there was no image.
        """
        counts = self._counts.over_ranks()
        support, correct, total = counts["support"], counts["correct"], sum(counts["support"])
        if total == 0:
            raise InputError("there is no image to evaluate", fix="give a test set with at least one image")
        per_class = [_percent(right, seen) for right, seen in zip(correct, support, strict=True)]
        # F1 = 2 TP / (2 TP + FP + FN), and support = TP + FN, predicted = TP + FP.
        f1 = [
            _percent(2 * right, seen + predicted) if seen else None
            for right, seen, predicted in zip(correct, support, counts["predicted"], strict=True)
        ]
        gaps = zip(counts["bin_correct"], counts["bin_confidence"], strict=True)
        ece = 100 * sum(abs(right - confidence / FIXED_POINT) for right, confidence in gaps) / total
        return Scores(
            accuracy=100 * sum(correct) / total,
            balanced_accuracy=fmean(_known(per_class)),
            macro_f1=fmean(_known(f1)),
            ece=float("nan") if counts["non_finite"][0] else ece,
            per_class=per_class,
            **_group_means(per_class, self._groups),
        )


class ClassAccuracy:
    """Correct and seen images of each class, counted on the device: light enough for every training step.

    Args:
        num_classes: C, at least 1.
        device: where the counts are.

    Attributes:
        correct: int64 (C,); add up over ranks, save and restore at will.
        total: int64 (C,), likewise.
    """

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self.correct = torch.zeros(num_classes, dtype=torch.int64, device=device)
        self.total = torch.zeros_like(self.correct)

    def update(self, logits_or_predictions: Tensor, labels: Tensor) -> None:
        """Count a batch without waiting for the device.

        Args:
            logits_or_predictions: float (N, C), or predicted classes int64 (N,).
            labels: int64 (N,), each in [0, C).
        """
        predictions = logits_or_predictions
        if predictions.ndim == 2:
            predictions = _predictions(predictions)
        self.correct.scatter_add_(0, labels, (predictions == labels).long())
        self.total.scatter_add_(0, labels, torch.ones_like(labels))

    def compute(self, groups: Mapping[str, Sequence[int]]) -> dict[str, float | None]:
        """Percent correct: ``accuracy`` over images, each group as the mean of its classes; None without any.

        Args:
            groups: labels by name, see ``class_groups``.
        """
        correct, total = self.correct.tolist(), self.total.tolist()
        per_class = [_percent(right, seen) for right, seen in zip(correct, total, strict=True)]
        return {"accuracy": _percent(sum(correct), sum(total)), **_group_means(per_class, groups)}


class _Counts:
    """Everything the scores need, as sums over images, in one tensor: summed and read in one go."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        sizes = dict.fromkeys(("support", "correct", "predicted"), num_classes)
        sizes |= {"bin_correct": BINS, "bin_confidence": BINS, "non_finite": 1}
        self._all = torch.zeros(sum(sizes.values()), dtype=torch.int64, device=device)
        self._parts = dict(zip(sizes, torch.split(self._all, list(sizes.values())), strict=True))
        self._inner_edges = torch.linspace(0, 1, BINS + 1)[1:-1].to(device)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        predictions, counts = _predictions(logits), self._parts
        finite, right = (predictions >= 0).long(), (predictions == labels).long()
        counts["support"].scatter_add_(0, labels, torch.ones_like(labels))
        counts["correct"].scatter_add_(0, labels, right)
        counts["predicted"].scatter_add_(0, predictions.clamp(min=0), finite)
        counts["non_finite"].add_((1 - finite).sum())
        confidence = logits.float().softmax(dim=1).amax(dim=1)
        bins = torch.bucketize(confidence, self._inner_edges)
        counts["bin_correct"].scatter_add_(0, bins, right)
        counts["bin_confidence"].scatter_add_(0, bins, (confidence * FIXED_POINT).long() * finite)

    def over_ranks(self) -> dict[str, list[int]]:
        """The counts of all ranks by name; those of this rank stay its own."""
        total = self._all.clone()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(total)
        values = iter(total.tolist())
        return {name: list(islice(values, len(part))) for name, part in self._parts.items()}


def _predictions(logits: Tensor) -> Tensor:
    """The largest logit's class, −1 where a logit is not finite."""
    return logits.argmax(dim=1).masked_fill(~logits.isfinite().all(dim=1), -1)


def _percent(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _group_means(
    per_class: Sequence[float | None], groups: Mapping[str, Sequence[int]]
) -> dict[str, float | None]:
    known = {name: _known([per_class[label] for label in labels]) for name, labels in groups.items()}
    return {name: fmean(values) if values else None for name, values in known.items()}
