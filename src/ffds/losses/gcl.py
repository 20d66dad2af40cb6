"""Gaussian clouded logit loss."""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from ffds.errors import InputError
from ffds.losses.base import ClassificationLoss, Reduction, checked
from ffds.losses.ldam import margin_cross_entropy
from ffds.losses.weights import PerClass, validated_counts

__all__ = ["GCLLoss"]


class GCLLoss(ClassificationLoss):
    """(1 − p_y)^γ · (−log p_y), p the softmax of s·(x_c − σ_c·|ε_c| − m·[c = y]).

    ε is drawn anew for each sample and class from the normal distribution N(0, 1/3), cut at ±1, by torch's
    global generator; in `eval` mode it is 0. σ_c = cloud · log(n_max / n_c) / log(n_max / n_min) is 0 for the
    most frequent class and largest for the rarest. The factor (1 − p_y)^γ is a constant for the gradient. The
    logits x must be cosines, from a head that normalises features and class weights
    (`ffds.models.heads.CosineHead`).

    Args:
        class_counts: training images of each class, each ≥ 1, in any form of `ffds.losses.weights.PerClass`.
        cloud: σ of the rarest class, ≥ 0; 0 leaves the cross-entropy of s·x.
        scale: s > 0.
        margin: m ≥ 0, of the label.
        gamma: γ ≥ 0.
        ignore_index, reduction: as in `ffds.losses.base.ClassificationLoss`.

    Source: Li et al., "Long-tailed visual recognition via Gaussian clouded logit adjustment", CVPR 2022, in
    the form of the authors' code, which takes |ε| for every class.

    >>> GCLLoss([1000, 100, 10], cloud=0.5).size
    tensor([0.0000, 0.2500, 0.5000])
    """

    size: Tensor

    def __init__(
        self,
        class_counts: PerClass,
        *,
        cloud: float = 0.5,
        scale: float = 30.0,
        margin: float = 0.0,
        gamma: float = 0.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(ignore_index, reduction)
        if not (0 < scale < inf and all(0 <= setting < inf for setting in (cloud, margin, gamma))):
            got = f"cloud={cloud}, scale={scale}, margin={margin}, gamma={gamma}"
            allowed = "finite cloud, margin, gamma >= 0, scale > 0"
            raise InputError("GCL setting out of range", got=got, allowed=allowed)
        self.scale, self.margin, self.gamma = scale, margin, gamma
        counts = validated_counts(class_counts)
        rarity = (counts.max() / counts).log()
        size = cloud * rarity / rarity.max().clamp_min(1e-12)
        self.register_buffer("size", size.float().to(torch.get_default_device()))

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cosines (N, C), target (N,) or (N, C) → () or (N,)."""
        logits, target = checked(logits, target, len(self.size))
        scaled = self.scale * (self.clouded(logits) if self.training else logits)
        margin = torch.full_like(self.size, self.scale * self.margin, dtype=logits.dtype)
        values = margin_cross_entropy(self, scaled, margin, target)
        if self.gamma:
            values = (-torch.expm1(-values)).detach() ** self.gamma * values
        return self.reduced(values, target)

    def clouded(self, logits: Tensor) -> Tensor:
        """The cosines (N, C), less the noise of their class."""
        noise = (torch.randn_like(logits) / 3).clamp(-1, 1).abs()
        return logits - self.size.to(logits.dtype) * noise

    def extra_repr(self) -> str:
        """The settings, for repr."""
        settings = f"scale={self.scale}, margin={self.margin}, gamma={self.gamma}"
        return f"{settings}, {super().extra_repr()}"
