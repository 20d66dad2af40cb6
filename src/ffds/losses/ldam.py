"""Label-distribution-aware margin loss."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import torch
from torch import Tensor

from ffds.errors import InputError
from ffds.losses import functional
from ffds.losses.precision import FullPrecision
from ffds.losses.reduction import Reduction, reduced, validated_reduction
from ffds.losses.weights import validated_counts

__all__ = ["LDAMLoss"]


class LDAMLoss(FullPrecision):
    """Cross-entropy of s·(x − m_y·e_y), with a larger margin m_y for a rarer class.

    m_c = max_margin · n_c^(−1/4) / max_j n_j^(−1/4). The logits x must be cosines, from a head that
    normalises features and class weights (`ffds.models.heads.CosineHead`).

    Args:
        class_counts: training images of each class, in any order, each ≥ 1.
        max_margin: margin of the rarest class, > 0.
        scale: s > 0.
        weight: weights of the classes (C,), or None; ``"mean"`` then divides by Σ w_y over the batch, as
            torch's weighted cross-entropy and the released code do.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Raises:
        InputError: a class count below 1, a setting out of range, or an unknown reduction.

    Source: Cao et al., "Learning imbalanced datasets with label-distribution-aware margin loss",
    NeurIPS 2019, eq. 11 to 13.

    >>> LDAMLoss([10000, 16]).margin
    tensor([0.1000, 0.5000])
    """

    margin: Tensor
    weight: Tensor | None

    def __init__(
        self,
        class_counts: Sequence[int] | Tensor,
        *,
        max_margin: float = 0.5,
        scale: float = 30.0,
        weight: Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        if not (0 < max_margin < inf and 0 < scale < inf):
            raise InputError(
                "LDAM setting out of range",
                got=f"max_margin={max_margin}, scale={scale}",
                allowed="finite max_margin > 0, scale > 0",
            )
        self.scale = scale
        self.reduction = validated_reduction(reduction)
        margin = validated_counts(class_counts) ** -0.25
        margin = (max_margin * margin / margin.max()).float()
        self.register_buffer("margin", margin.to(torch.get_default_device()))
        self.register_buffer("weight", weight)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cosines (N, C), target (N,) → () or (N,)."""
        values = functional.ldam(logits, target, self.margin, self.scale)
        if self.weight is None:
            return reduced(values, self.reduction)
        weight = functional.per_sample(self.weight, logits, target)
        if self.reduction == "mean":
            return (weight * values).sum() / self.divisor(target)
        return reduced(weight * values, self.reduction)

    def divisor(self, target: Tensor) -> Tensor:
        """What the mean over target (N,) divides by, (): Σ w_y, or N without weights."""
        return target.new_tensor(len(target)) if self.weight is None else self.weight[target].sum()

    def extra_repr(self) -> str:
        """The settings, for repr."""
        return f"scale={self.scale}, weighted={self.weight is not None}, reduction={self.reduction!r}"
