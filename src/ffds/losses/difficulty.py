"""Cross-entropy whose class weights follow the difficulty of the classes."""

from __future__ import annotations

from math import inf
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ffds.errors import InputError
from ffds.losses.base import ClassificationLoss, Reduction, checked

__all__ = ["DifficultyBalancedLoss", "Dynamic"]

Dynamic = Literal["dynamic", "dynamic-imagenet"]
"""τ = σ(b) on CIFAR and τ = 2·σ(b − 1) on ImageNet-LT, b = (1 − min d) / (1 − max d + 0.01)."""


class DifficultyBalancedLoss(ClassificationLoss):
    """w_y · CE with w_c ∝ d_c^τ and Σ w = C, d_c = 1 − accuracy of class c on held-out images.

    All weights are 1 until `renew` is called, as a training does after every epoch. ``"mean"`` divides by the
    number of samples. A class without a held-out image counts as the most difficult of the others. Where no
    class has any difficulty, all weights are 1.

    Args:
        num_classes: C ≥ 2.
        tau: τ ≥ 0, 0 for no weighting; or chosen anew with the weights, see `Dynamic`.
        ignore_index, reduction: as in `ffds.losses.base.ClassificationLoss`.

    Source: Sinha et al., "Class-wise difficulty-balanced loss for solving class-imbalance", ACCV 2020; IJCV
    2022; the released code.

    >>> loss = DifficultyBalancedLoss(2, tau=1.0)
    >>> loss.renew(torch.tensor([0.9, 0.7]))
    >>> loss.weight
    tensor([0.5000, 1.5000])
    """

    weight: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        tau: float | Dynamic = "dynamic",
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(ignore_index, reduction)
        if num_classes < 2:
            raise InputError("there are too few classes", got=num_classes, allowed="2 or more")
        if tau not in get_args(Dynamic) if isinstance(tau, str) else not 0 <= tau < inf:
            allowed = f"a finite number >= 0, {', '.join(get_args(Dynamic))}"
            raise InputError("tau is out of range", got=tau, allowed=allowed)
        self.tau = tau
        self.register_buffer("weight", torch.ones(num_classes, dtype=torch.float32))

    @torch.no_grad()
    def renew(self, class_accuracy: Tensor) -> None:
        """Make the weights anew from the accuracy (C,) of each class, in [0, 1]; NaN where not known."""
        difficulty = 1 - class_accuracy.double()
        difficulty = difficulty.where(~difficulty.isnan(), difficulty.nan_to_num(0).max())
        weight = difficulty ** self._tau(difficulty)
        total = weight.sum()
        weight = torch.where(total > 0, weight * (len(weight) / total), torch.ones_like(weight))
        self.weight.copy_(weight)

    def _tau(self, difficulty: Tensor) -> Tensor:
        if not isinstance(self.tau, str):
            return difficulty.new_tensor(self.tau)
        bias = (1 - difficulty.min()) / (1 - difficulty.max() + 0.01)
        return bias.sigmoid() if self.tau == "dynamic" else 2 * (bias - 1).sigmoid()

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits (N, C), target (N,) or (N, C) → () or (N,)."""
        logits, target = checked(logits, target, len(self.weight))
        values = -self.at_label(F.log_softmax(logits, dim=1), target)
        return self.reduced(self.weighted(values, self.weight, target), target)

    def extra_repr(self) -> str:
        """The settings, for repr."""
        return f"tau={self.tau!r}, {super().extra_repr()}"
