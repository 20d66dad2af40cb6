"""Methods that train with logits adjusted by the class frequencies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from ffds.methods.base import Method, Stage
from ffds.settings import Milestones, NonNegative

__all__ = ["BalancedSoftmax", "LogitAdjusted"]


class LogitAdjusted(Method):
    """Cross-entropy of z + τ·log π, π being the shares of the classes (Menon et al. 2021).

    Its learning rate falls at the fractions of the 1419 epochs of the authors' code.
    """

    source: ClassVar[str] = "Menon et al., Logit adjustment, ICLR 2021, equation 10"
    published: ClassVar[str] = "43.89, Menon et al. 2021"

    name: Literal["logit-adjusted"] = "logit-adjusted"
    tau: NonNegative = 1.0
    """τ, the strength of the adjustment; 0 gives cross-entropy."""
    milestones: Milestones | None = ((0.487, 0.1), (0.746, 0.01), (0.909, 0.001))

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        from ffds.losses import LogitAdjustedLoss

        return (Stage("logit-adjusted", LogitAdjustedLoss(class_counts, tau=self.tau)),)


class BalancedSoftmax(Method):
    """Cross-entropy of z + log n, n being the training images of the classes (Ren et al. 2020).

    Its learning rate falls as in Bag of Tricks (Zhang et al. 2021).
    """

    source: ClassVar[str] = "Ren et al., Balanced meta-softmax, NeurIPS 2020, equation 3"
    published: ClassVar[str] = "42.99, Zhang et al. 2021"

    name: Literal["balanced-softmax"] = "balanced-softmax"
    milestones: Milestones | None = ((0.8, 0.01), (0.9, 0.0001))

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        from ffds.losses import LogitAdjustedLoss

        return (Stage("balanced softmax", LogitAdjustedLoss(class_counts)),)
