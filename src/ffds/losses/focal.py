"""Focal loss, with class weights if given: FL, CB-FL and, at γ = 0, weighted cross-entropy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ffds.errors import InputError
from ffds.losses.base import ClassificationLoss, Reduction, checked
from ffds.losses.weights import PerClass, validated_weight

__all__ = ["FocalLoss", "focal"]


def focal(log_probability: Tensor, gamma: float) -> Tensor:
    """(1 − p)^γ · (−log p), γ ≥ 0, with the gradient through both factors.

    Below γ = 1 the slope has no bound at p = 1, so 1 − p is kept above the smallest normal number.

    >>> focal(torch.tensor([0.5]).log(), gamma=1.0)
    tensor([0.3466])
    """
    difficulty = -torch.expm1(log_probability)
    return difficulty.clamp_min(torch.finfo(difficulty.dtype).tiny) ** gamma * -log_probability


class FocalLoss(ClassificationLoss):
    """w_y · (1 − p_y)^γ · (−log p_y).

    ``"mean"`` divides by the number of samples, not by Σ w_y as torch's weighted cross-entropy does.

    Args:
        gamma: focusing parameter γ ≥ 0; 0 gives (weighted) cross-entropy.
        weight: of each class, ≥ 0, as list, array or tensor; None for no weighting.
        ignore_index, reduction: as in `ffds.losses.base.ClassificationLoss`.

    Source: Lin et al., "Focal loss for dense object detection", eq. 4; CB-FL: Cui et al., CVPR 2019, eq. 6.

    >>> FocalLoss(gamma=0.0)(torch.zeros(2, 4), torch.tensor([0, 3])).exp()
    tensor(4.)
    """

    weight: Tensor | None

    def __init__(
        self,
        gamma: float = 1.0,
        *,
        weight: PerClass | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(ignore_index, reduction)
        if not 0 <= gamma < float("inf"):
            raise InputError("gamma is out of range", got=gamma, allowed="gamma >= 0")
        self.gamma = gamma
        self.register_buffer("weight", validated_weight(weight))

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits (N, C), target (N,) or (N, C) → () or (N,)."""
        logits, target = checked(logits, target, None if self.weight is None else len(self.weight))
        values = focal(self.at_label(F.log_softmax(logits, dim=1), target), self.gamma)
        return self.reduced(self.weighted(values, self.weight, target), target)

    def extra_repr(self) -> str:
        """The settings, for repr."""
        return f"gamma={self.gamma}, weighted={self.weight is not None}, {super().extra_repr()}"
