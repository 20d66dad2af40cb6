"""Cross-entropy of logits adjusted by the class frequencies: logit-adjusted, balanced softmax, VS."""

from __future__ import annotations

from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor

from ffds.errors import InputError
from ffds.losses.base import ClassificationLoss, Reduction, checked
from ffds.losses.weights import PerClass, validated_counts

__all__ = ["LogitAdjustedLoss", "VSLoss"]


class LogitAdjustedLoss(ClassificationLoss):
    """Cross-entropy of z + τ·log π, π_c = n_c / Σ_j n_j being the share of class c in the training images.

    The network learns z without the prior, so that argmax z suits a test set in which all classes are
    equally frequent. τ = 1 is balanced softmax, whose log n_c differs from log π_c by a constant; τ = 0 is
    cross-entropy.

    Args:
        class_counts: training images of each class, each ≥ 1, in any form of `ffds.losses.weights.PerClass`.
        tau: τ ≥ 0.
        ignore_index, reduction: as in `ffds.losses.base.ClassificationLoss`.

    Sources: Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, eq. 10; Ren et al., "Balanced
    meta-softmax for long-tailed visual recognition", NeurIPS 2020, eq. 4.

    >>> loss = LogitAdjustedLoss([30, 10])
    >>> loss(torch.zeros(1, 2), torch.tensor([1]))  # log 4: with no logits the prior is all there is
    tensor(1.3863)
    """

    adjustment: Tensor

    def __init__(
        self,
        class_counts: PerClass,
        *,
        tau: float = 1.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(ignore_index, reduction)
        _check_not_negative("tau", tau)
        counts = validated_counts(class_counts)
        adjustment = tau * (counts / counts.sum()).log()
        self.register_buffer("adjustment", adjustment.float().to(torch.get_default_device()))

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits (N, C), target (N,) or (N, C) → () or (N,)."""
        logits, target = checked(logits, target, len(self.adjustment))
        values = -self.at_label(F.log_softmax(self.adjusted(logits), dim=1), target)
        return self.reduced(values, target)

    def adjusted(self, logits: Tensor) -> Tensor:
        """The logits (N, C) whose cross-entropy is the loss."""
        return logits + self.adjustment.to(logits.dtype)


class VSLoss(LogitAdjustedLoss):
    """Vector scaling: cross-entropy of Δ_c·z_c + τ·log π_c, Δ_c = (n_c / n_max)^γ.

    γ = 0 is the logit-adjusted loss; τ = 0 is that of class-dependent temperatures (CDT).

    Args:
        class_counts: training images of each class, each ≥ 1, in any form of `ffds.losses.weights.PerClass`.
        gamma: γ ≥ 0.
        tau: τ ≥ 0.
        ignore_index, reduction: as in `ffds.losses.base.ClassificationLoss`.

    Source: Kini et al., "Label-imbalanced and group-sensitive classification under overparameterization",
    NeurIPS 2021, with the factors of the authors' code.

    >>> VSLoss([100, 1], gamma=0.5).factor
    tensor([1.0000, 0.1000])
    """

    factor: Tensor

    def __init__(
        self,
        class_counts: PerClass,
        *,
        gamma: float = 0.3,
        tau: float = 1.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(class_counts, tau=tau, ignore_index=ignore_index, reduction=reduction)
        _check_not_negative("gamma", gamma)
        counts = validated_counts(class_counts)
        factor = (counts / counts.max()) ** gamma
        self.register_buffer("factor", factor.float().to(torch.get_default_device()))

    def adjusted(self, logits: Tensor) -> Tensor:
        """The logits (N, C) whose cross-entropy is the loss."""
        return super().adjusted(self.factor.to(logits.dtype) * logits)


def _check_not_negative(name: str, value: float) -> None:
    if not 0 <= value < inf:
        raise InputError(f"{name} is out of range", got=f"{name}={value}", allowed=f"finite {name} >= 0")
