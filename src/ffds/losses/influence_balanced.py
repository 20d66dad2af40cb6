"""Influence-balanced loss."""

from __future__ import annotations

from math import inf

from torch import Tensor

from ffds.errors import InputError
from ffds.losses import functional
from ffds.losses.precision import FullPrecision
from ffds.losses.reduction import Reduction, reduced, validated_reduction

__all__ = ["InfluenceBalancedLoss"]


class InfluenceBalancedLoss(FullPrecision):
    """w_y · (1 − p_y)^γ · CE · α / (‖p − e_y‖₁ · ‖h‖₁ + ε): less weight to samples that pull hard.

    Args:
        alpha: α > 0.
        epsilon: ε > 0, keeps the quotient finite where p_y = 1.
        gamma: focusing parameter ≥ 0; 0 for IB, 1 for IB-FL.
        weight: weights of the classes (C,), or None.
        reduction: ``"mean"`` (over the batch size), ``"sum"`` or ``"none"``.

    Raises:
        InputError: a setting out of range or an unknown reduction.

    Source: Park et al., "Influence-balanced loss for imbalanced visual classification", ICCV 2021, eq. 9.

    >>> import torch
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
        weight: Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        if not (0 < alpha < inf and 0 < epsilon < inf and 0 <= gamma < inf):
            raise InputError(
                "influence-balanced setting out of range",
                got=f"alpha={alpha}, epsilon={epsilon}, gamma={gamma}",
                allowed="finite alpha > 0, epsilon > 0, gamma >= 0",
            )
        self.alpha, self.epsilon, self.gamma = alpha, epsilon, gamma
        self.reduction = validated_reduction(reduction)
        self.register_buffer("weight", weight)

    def forward(self, logits: Tensor, target: Tensor, features: Tensor) -> Tensor:
        """Logits (N, C), target (N,), features (N, D) → () or (N,)."""
        values = functional.influence_balanced(
            logits, target, features, alpha=self.alpha, epsilon=self.epsilon, gamma=self.gamma
        )
        if self.weight is not None:
            values = functional.per_sample(self.weight, logits, target) * values
        return reduced(values, self.reduction)

    def extra_repr(self) -> str:
        """The settings, for repr."""
        return (
            f"alpha={self.alpha}, epsilon={self.epsilon}, gamma={self.gamma}, "
            f"weighted={self.weight is not None}, reduction={self.reduction!r}"
        )
