"""Influence-balanced loss."""

from __future__ import annotations

from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor

from ffds.errors import InputError
from ffds.losses.base import ClassificationLoss, Reduction, checked
from ffds.losses.focal import focal
from ffds.losses.weights import PerClass, validated_weight

__all__ = ["InfluenceBalancedLoss"]


class InfluenceBalancedLoss(ClassificationLoss):
    """w_y · (1 − p_y)^γ · CE · α / (‖p − e_y‖₁ · ‖h‖₁ + ε), h being the input of the last linear layer.

    ‖p − e_y‖₁ = 2·(1 − p_y). The gradient runs through every factor, as in the released code. That code takes
    the p of the focal factor from the weighted cross-entropy, p = exp(−w_y·CE) instead of p_y = exp(−CE);
    `weighted_probability` does the same.

    Args:
        alpha, epsilon: α > 0 and ε > 0.
        gamma: focusing parameter ≥ 0; 0 for the plain loss, 1 for IB-FL.
        weighted_probability: whether the focal factor is (1 − exp(−w_y·CE))^γ instead of (1 − p_y)^γ.
        weight: of each class, ≥ 0, as list, array or tensor; None for no weighting.
        ignore_index, reduction: as in `ffds.losses.base.ClassificationLoss`.

    Source: Park et al., "Influence-balanced loss for imbalanced visual classification", ICCV 2021, eq. 9.

    >>> loss = InfluenceBalancedLoss(alpha=1.0, epsilon=1.0)
    >>> loss(torch.zeros(1, 2), torch.tensor([0]), torch.ones(1, 3))  # log 2 / (2·½·3 + 1)
    tensor(0.1733)
    """

    weight: Tensor | None

    def __init__(
        self,
        *,
        alpha: float = 1000.0,
        epsilon: float = 1e-3,
        gamma: float = 0.0,
        weighted_probability: bool = False,
        weight: PerClass | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(ignore_index, reduction)
        if not (0 < alpha < inf and 0 < epsilon < inf and 0 <= gamma < inf):
            got = f"alpha={alpha}, epsilon={epsilon}, gamma={gamma}"
            allowed = "finite alpha > 0, epsilon > 0, gamma >= 0"
            raise InputError("influence-balanced setting out of range", got=got, allowed=allowed)
        self.alpha, self.epsilon, self.gamma = alpha, epsilon, gamma
        self.weighted_probability = weighted_probability
        self.register_buffer("weight", validated_weight(weight))

    def forward(self, logits: Tensor, target: Tensor, features: Tensor) -> Tensor:
        """Logits (N, C), target (N,) or (N, C), features (N, D) → () or (N,)."""
        logits, target = checked(logits, target, None if self.weight is None else len(self.weight))
        if features.ndim != 2 or len(features) != len(logits):
            got = f"logits {tuple(logits.shape)}, features {tuple(features.shape)}"
            allowed = "logits (N, C), features (N, D)"
            raise InputError("logits and features do not fit together", got=got, allowed=allowed)
        log_p = self.at_label(F.log_softmax(logits, dim=1), target)
        distance = -2 * torch.expm1(log_p)
        norm = features.to(logits.dtype).abs().sum(dim=1, keepdim=target.ndim == 2)
        before, after = (self.weight, None) if self.weighted_probability else (None, self.weight)
        values = focal(self.weighted(log_p, before, target), self.gamma)
        values = values * self.alpha / (distance * norm + self.epsilon)
        return self.reduced(self.weighted(values, after, target), target)

    def extra_repr(self) -> str:
        """The settings, for repr."""
        settings = f"alpha={self.alpha}, epsilon={self.epsilon}, gamma={self.gamma}"
        settings += ", weighted_probability=True" if self.weighted_probability else ""
        return f"{settings}, weighted={self.weight is not None}, {super().extra_repr()}"
