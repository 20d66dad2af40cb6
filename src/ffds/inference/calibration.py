"""How well probabilities fit, for all images and for those of head, middle and tail classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ffds.evaluation.groups import class_groups
from ffds.evaluation.measures import mean

__all__ = ["Calibration", "balanced_accuracy", "balanced_nll", "calibration", "fitted_temperature"]

BINS = 15
RANGE = (0.05, 20.0)
"""A temperature stays within: where all images are classified correctly it would fall to 0."""

Calibration = dict[str, dict[str, float | None]]
"""For all images and each group: accuracy and ECE in percent, mean NLL in nats."""


def calibration(
    logits: Tensor, labels: Tensor, class_counts: Sequence[int], cut: tuple[int, int, int] | None
) -> Calibration:
    """Accuracy, ECE and NLL of logits (N, C) for labels (N,); None for a group without images."""
    groups = {"all": list(range(len(class_counts))), **class_groups(class_counts, cut)}
    chosen = {name: torch.isin(labels, torch.tensor(group)) for name, group in groups.items()}
    return {name: _measured(logits[own], labels[own]) for name, own in chosen.items()}


def _measured(logits: Tensor, labels: Tensor) -> dict[str, float | None]:
    if not len(labels):
        return dict.fromkeys(("accuracy", "ece", "nll"))
    confidence, predicted = logits.softmax(1).max(1)
    right = (predicted == labels).to(confidence)
    place = torch.bucketize(confidence, torch.linspace(0, 1, BINS + 1, dtype=confidence.dtype)[1:-1])
    gaps = torch.zeros(BINS, dtype=confidence.dtype).index_add_(0, place, right - confidence)
    return {
        "accuracy": 100 * right.mean().item(),
        "ece": 100 * gaps.abs().sum().item() / len(labels),
        "nll": F.cross_entropy(logits, labels).item(),
    }


def fitted_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature T that minimises the NLL of logits / T, float64 (N, C), within 0.05 to 20.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.

    >>> logits = torch.tensor([[4.0, 0.0]] * 3 + [[0.0, 4.0]], dtype=torch.float64)
    >>> round(fitted_temperature(logits, torch.tensor([0, 0, 0, 0])), 3)    # 4 / T = log 3
    3.641
    """
    exponent = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([exponent], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(logits / exponent.clamp(-5, 5).exp(), labels)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return min(max(exponent.detach().exp().item(), RANGE[0]), RANGE[1])


def balanced_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Mean accuracy of the classes that have images, in percent."""
    return _over_classes((logits.argmax(1) == labels).double() * 100, labels)


def balanced_nll(logits: Tensor, labels: Tensor) -> float:
    """Mean over the classes that have images of their mean NLL."""
    return _over_classes(F.cross_entropy(logits, labels, reduction="none"), labels)


def _over_classes(values: Tensor, labels: Tensor) -> float:
    found = mean(values[labels == label].mean().item() for label in set(labels.tolist()))
    assert found is not None
    return found
