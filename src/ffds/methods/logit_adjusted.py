"""Methods that train with logits adjusted by the class frequencies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from ffds.methods.base import Method, Stage
from ffds.settings import Milestones, NonNegative

__all__ = ["LADE", "BalancedSoftmax", "LogitAdjusted", "VectorScaling"]


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

    source: ClassVar[str] = "Ren et al., Balanced meta-softmax, NeurIPS 2020, equation 4"
    published: ClassVar[str] = "42.99, Zhang et al. 2021"

    name: Literal["balanced-softmax"] = "balanced-softmax"
    milestones: Milestones | None = ((0.8, 0.01), (0.9, 0.0001))

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        from ffds.losses import LogitAdjustedLoss

        return (Stage("logit-adjusted", LogitAdjustedLoss(class_counts)),)


class VectorScaling(Method):
    """Cross-entropy of Δ·z + τ·log π, with factors Δ_c = (n_c / n_max)^γ (Kini et al. 2021)."""

    source: ClassVar[str] = "Kini et al., Label-imbalanced and group-sensitive classification, NeurIPS 2021"

    name: Literal["vs"] = "vs"
    gamma: NonNegative = 0.05
    """γ of the factors; 0 gives the logit-adjusted loss. On CIFAR-10-LT the authors take 0.15."""
    tau: NonNegative = 0.75
    """τ, the strength of the adjustment. On CIFAR-10-LT the authors take 1.25."""
    milestones: Milestones | None = ((0.8, 0.01), (0.9, 0.0001))

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        from ffds.losses import VSLoss

        return (Stage("vector scaling", VSLoss(class_counts, gamma=self.gamma, tau=self.tau)),)


class LADE(Method):
    """Balanced softmax with a regulariser against class shares in the logits (Hong et al. 2021).

    The authors train on CIFAR-100-LT with batches of 256, learning rate 0.2 and weight decay 5e-4.
    """

    source: ClassVar[str] = "Hong et al., Disentangling label distribution, CVPR 2021"
    published: ClassVar[str] = "45.4, Hong et al. 2021"

    name: Literal["lade"] = "lade"
    alpha: NonNegative = 0.1
    """α, the weight of the regulariser; 0 gives balanced softmax."""
    penalty: NonNegative = 0.01
    """λ of the regulariser, which holds its logarithm near 0."""
    milestones: Milestones | None = ((0.6, 0.01), (0.8, 0.0001))

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        from ffds.losses import LADELoss

        return (Stage("lade", LADELoss(class_counts, alpha=self.alpha, penalty=self.penalty)),)
