"""Cross-entropy with one learned factor for the logit of each class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffds.losses.base import ClassificationLoss, checked

__all__ = ["ScaledCrossEntropy"]


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
