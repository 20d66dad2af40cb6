"""Label-distribution-aware margin loss."""

from __future__ import annotations

from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor

from ffds.errors import InputError
from ffds.losses.base import ClassificationLoss, Reduction, checked, labels_to_keep
from ffds.losses.weights import PerClass, validated_counts, validated_weight

__all__ = ["LDAMLoss", "margin_cross_entropy"]


class LDAMLoss(ClassificationLoss):
    """Cross-entropy of s·(x − m_y·e_y), with a larger margin m_y for a rarer class.

    m_c = max_margin · n_c^(−1/4) / max_j n_j^(−1/4). The logits x must be cosines, from a head that
    normalises features and class weights (`ffds.models.heads.CosineHead`).

    Args:
        class_counts: training images of each class, each ≥ 1, in any form of `ffds.losses.weights.PerClass`.
        max_margin: margin of the rarest class, > 0.
        scale: s > 0.
        weight: of each class, ≥ 0, or None; ``"mean"`` then divides by Σ w_y, as torch's cross-entropy does.
        ignore_index, reduction: as in `ffds.losses.base.ClassificationLoss`.

    Source: Cao et al., "Learning imbalanced datasets with label-distribution-aware margin loss",
    NeurIPS 2019, eq. 11 to 13.

    >>> LDAMLoss([10000, 16]).margin
    tensor([0.1000, 0.5000])
    """

    margin: Tensor
    weight: Tensor | None

    def __init__(
        self,
        class_counts: PerClass,
        *,
        max_margin: float = 0.5,
        scale: float = 30.0,
        weight: PerClass | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(ignore_index, reduction)
        if not (0 < max_margin < inf and 0 < scale < inf):
            got, allowed = f"max_margin={max_margin}, scale={scale}", "finite max_margin > 0, scale > 0"
            raise InputError("LDAM setting out of range", got=got, allowed=allowed)
        self.scale = scale
        margin = validated_counts(class_counts) ** -0.25
        margin = (max_margin * margin / margin.max()).float()
        self.register_buffer("margin", margin.to(torch.get_default_device()))
        self.register_buffer("weight", validated_weight(weight))
        if self.weight is not None and len(self.weight) != len(margin):
            got = f"{len(self.weight)} weights, {len(margin)} counts"
            raise InputError("weights and counts are of different numbers of classes", got=got)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cosines (N, C), target (N,) or (N, C) → () or (N,)."""
        logits, target = checked(logits, target, len(self.margin))
        scaled = self.scale * logits
        values = margin_cross_entropy(self, scaled, self.scale * self.margin.to(logits.dtype), target)
        values = self.weighted(values, self.weight, target)
        return self.reduced(values, target, self.divisor(target))

    def divisor(self, target: Tensor) -> Tensor:
        """What the mean over target divides by, (): Σ w_y, or without weights the number of samples."""
        weight = torch.ones_like(self.margin) if self.weight is None else self.weight
        return self.sum_at_label(weight, target)

    def extra_repr(self) -> str:
        """The settings, for repr."""
        return f"scale={self.scale}, weighted={self.weight is not None}, {super().extra_repr()}"


def margin_cross_entropy(loss: ClassificationLoss, logits: Tensor, margin: Tensor, target: Tensor) -> Tensor:
    """The cross-entropy of z − m_y·e_y at the labels, (N,), or for probabilities of every class, (N, C).

    Logits (N, C) in float32 or better, margins m (C,), target (N,) or (N, C).
    """
    shift = loss.at_label(margin, target)
    if target.ndim == 2:
        return -F.logsigmoid(loss.at_label(_log_odds(logits), target) - shift)
    label, _ = labels_to_keep(target, loss.ignore_index)
    shifted = logits.scatter_add(1, label[:, None], -shift[:, None])
    return -loss.at_label(F.log_softmax(shifted, dim=1), target)


def _log_odds(logits: Tensor) -> Tensor:
    """Log p_c/(1 − p_c) of every class, (N, C): the CE of label c of z − m·e_c is −log σ(that − m)."""
    top = logits.argmax(dim=1, keepdim=True)
    log_p = F.log_softmax(logits, dim=1)
    # 1 − p of the largest class loses its digits, so there the others are summed by themselves.
    others = logits.scatter(1, top, -torch.inf).logsumexp(dim=1, keepdim=True)
    rest = torch.log1p(-log_p.exp().scatter(1, top, 0))
    return (log_p - rest).scatter(1, top, logits.gather(1, top) - others)
