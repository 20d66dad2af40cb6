"""Counts of right and wrong predictions, gathered batch by batch on the device of the logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

import torch
import torch.distributed as dist
from torch import Tensor

from ffds.errors import InputError
from ffds.evaluation.groups import class_groups, shot_groups
from ffds.evaluation.measures import Counts, Scores, mean, percent

__all__ = ["ClassAccuracy", "Evaluation"]

BINS = 15
FIXED_POINT = 2**30
"""Confidence is summed as integers of this unit, so that the order of the images does not matter."""


class Evaluation:
    """Scores of a test set, in O(C) memory and without waiting for the device.

    An image with a logit that is not finite counts as wrong and as a prediction of no class. In a process
    group, every rank updates with its own images and all ranks call `compute`: each image counts once. All
    counts are integers, so the result is bit-equal for any batches and any number of ranks.

    The training images of each class and `cut` (classes in head, middle and tail; None: thirds) define the
    groups; InputError where they do not fit the number of classes. Logits will be on `device`.

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
        sizes = dict.fromkeys(("support", "correct", "predicted"), num_classes)
        sizes |= {"bin_correct": BINS, "bin_confidence": BINS, "non_finite": 1}
        # One tensor, so that the ranks sum it and the host reads it in one go.
        self._all = torch.zeros(sum(sizes.values()), dtype=torch.int64, device=device)
        self._parts = dict(zip(sizes, torch.split(self._all, list(sizes.values())), strict=True))
        self._inner_edges = torch.linspace(0, 1, BINS + 1)[1:-1].to(device)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: logits float (N, C), labels int64 (N,), each in [0, C)."""
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

    def compute(self) -> Scores:
        """The scores of all images so far, over all ranks; the counts of this rank stay its own.

        Raises:
            InputError: there was no image.
        """
        total = self._all.clone()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(total)
        values = iter(total.tolist())
        sums = {name: list(islice(values, len(part))) for name, part in self._parts.items()}
        if not any(sums["support"]):
            raise InputError("there is no image to evaluate", fix="give a test set with at least one image")
        finite = sums.pop("non_finite") == [0]
        confidence = [value / FIXED_POINT for value in sums.pop("bin_confidence")]
        return Scores.of(Counts(**sums, bin_confidence=confidence, finite=finite, groups=self._groups))


class ClassAccuracy:
    """Correct and seen images of each class, counted on the device: light enough for every training step.

    `correct` and `total` are int64 (C,) and may be summed over ranks, saved and restored.
    """

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self.correct = torch.zeros(num_classes, dtype=torch.int64, device=device)
        self.total = torch.zeros_like(self.correct)

    def update(self, logits_or_predictions: Tensor, labels: Tensor) -> None:
        """Count a batch: logits float (N, C) or predicted classes int64 (N,), and labels int64 (N,)."""
        given = logits_or_predictions
        predictions = _predictions(given) if given.ndim == 2 else given
        self.correct.scatter_add_(0, labels, (predictions == labels).long())
        self.total.scatter_add_(0, labels, torch.ones_like(labels))

    def compute(self, groups: Mapping[str, Sequence[int]]) -> dict[str, float | None]:
        """Percent correct: ``accuracy`` over images, each group as the mean of its classes, None without."""
        correct, total = self.correct.tolist(), self.total.tolist()
        per_class = [percent(right, seen) for right, seen in zip(correct, total, strict=True)]
        means = {name: mean(per_class[label] for label in labels) for name, labels in groups.items()}
        return {"accuracy": percent(sum(correct), sum(total)), **means}


def _predictions(logits: Tensor) -> Tensor:
    """The class of the largest logit; −1 where a logit is not finite."""
    return logits.argmax(dim=1).masked_fill(~logits.isfinite().all(dim=1), -1)
