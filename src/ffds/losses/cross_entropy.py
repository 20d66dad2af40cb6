"""Cross-entropy with class weights, and with learned factors of the logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffds.losses.base import ClassificationLoss, Reduction, checked
from ffds.losses.weights import PerClass, validated_weight

__all__ = ["ScaledCrossEntropy", "WeightedCrossEntropyLoss"]


class WeightedCrossEntropyLoss(ClassificationLoss):
    """w_y · (−log p_y); ``"mean"`` divides by Σ w_y, so that a factor of all weights changes nothing.

    As in torch, but also for probabilities as target, for which torch divides by the number of samples.
    `ffds.losses.FocalLoss` with γ = 0 is the same loss with a mean over the samples.

    Args:
        weight: of each class, ≥ 0, in any form of `ffds.losses.weights.PerClass`.
        ignore_index, reduction: as in `ffds.losses.base.ClassificationLoss`.

    >>> loss = WeightedCrossEntropyLoss([1.0, 3.0])
    >>> logits = torch.tensor([[0.75, 0.25], [0.5, 0.5]]).log()
    >>> loss(logits, torch.tensor([0, 1]))  # (log 4/3 + 3 · log 2) / (1 + 3)
    tensor(0.5918)
    """

    weight: Tensor

    def __init__(self, weight: PerClass, *, ignore_index: int = -100, reduction: Reduction = "mean") -> None:
        super().__init__(ignore_index, reduction)
        self.register_buffer("weight", validated_weight(weight))

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits (N, C), target (N,) or (N, C) → () or (N,)."""
        logits, target = checked(logits, target, len(self.weight))
        values = -self.at_label(F.log_softmax(logits, dim=1), target)
        return self.reduced(self.weighted(values, self.weight, target), target, self.divisor(target))

    def divisor(self, target: Tensor) -> Tensor:
        """What the mean over target divides by, (): Σ w_y."""
        return self.sum_at_label(self.weight, target)


class ScaledCrossEntropy(ClassificationLoss):
    """CE(s ⊙ z) of logits z (N, C), with a trained scale s (C,) that is 1 at the beginning.

    Source: Kang et al., "Decoupling representation and classifier", ICLR 2020, equation 6.

    >>> ScaledCrossEntropy(4)(torch.zeros(2, 4), torch.tensor([0, 3])).exp().item()
    4.0
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(ignore_index=-100, reduction="mean")
        self.scale = nn.Parameter(torch.ones(num_classes))

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits (N, C), target (N,) or (N, C) → ()."""
        logits, target = checked(logits, target, len(self.scale))
        log_p = F.log_softmax(self.scale * logits, dim=1)
        return self.reduced(self.at_label(-log_p, target), target)

    @torch.no_grad()
    def folded(self, rows: Tensor) -> Tensor:
        """Weight (C, D) or bias (C,) of a classifier whose logits are the scaled ones."""
        return rows * self.scale.view(-1, *[1] * (rows.ndim - 1)).to(rows.dtype)
