"""Focal loss, with class weights if given: FL, CB-FL and, at γ = 0, weighted cross-entropy."""

from __future__ import annotations

from torch import Tensor

from ffds.errors import InputError
from ffds.losses import functional
from ffds.losses.precision import FullPrecision
from ffds.losses.reduction import Reduction, reduced, validated_reduction

__all__ = ["FocalLoss"]


class FocalLoss(FullPrecision):
    """w_y · (1 − p_y)^γ · (−log p_y).

    p_y is the probability of the model, not that of the weighted loss, and ``"mean"`` divides by the batch
    size, not by Σ w_y as torch's weighted cross-entropy does.

    Args:
        gamma: focusing parameter γ ≥ 0; 0 gives (weighted) cross-entropy.
        weight: weights of the classes, (C,), or None for no weighting.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Raises:
        InputError: γ negative or not finite, or an unknown reduction.

    Source: Lin et al., "Focal loss for dense object detection"; CB-FL: Cui et al., CVPR 2019, eq. 6.

    >>> import torch
    >>> FocalLoss(gamma=0.0)(torch.zeros(2, 4), torch.tensor([0, 3])).exp()
    tensor(4.)
    """

    weight: Tensor | None

    def __init__(
        self, gamma: float = 1.0, *, weight: Tensor | None = None, reduction: Reduction = "mean"
    ) -> None:
        super().__init__()
        if not 0 <= gamma < float("inf"):
            raise InputError("gamma is out of range", got=gamma, allowed="gamma >= 0")
        self.gamma = gamma
        self.reduction = validated_reduction(reduction)
        self.register_buffer("weight", weight)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits (N, C), target (N,) → () or (N,)."""
        values = functional.focal(logits, target, self.gamma)
        if self.weight is not None:
            values = functional.per_sample(self.weight, logits, target) * values
        return reduced(values, self.reduction)

    def extra_repr(self) -> str:
        """The settings, for repr."""
        return f"gamma={self.gamma}, weighted={self.weight is not None}, reduction={self.reduction!r}"
