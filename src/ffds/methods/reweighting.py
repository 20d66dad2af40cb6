"""Cross-entropy, and the losses that weight its samples or classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from ffds.errors import InputError
from ffds.methods.base import Beta, Method, Stage, WeightScale, cross_entropy
from ffds.settings import NonNegative

__all__ = ["CBFocal", "ClassBalanced", "CrossEntropy", "Custom", "Focal"]


class CrossEntropy(Method):
    """Plain cross-entropy, the baseline."""

    source: ClassVar[str] = "Nah et al., CVPR Workshops 2023, the baseline"
    published: ClassVar[str] = "38.85, Nah et al. 2023"

    name: Literal["ce"] = "ce"

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        return (cross_entropy(),)


class Focal(Method):
    """Focal loss (1 - p)^gamma CE (Lin et al. 2017)."""

    source: ClassVar[str] = "Lin et al., Focal loss, ICCV 2017, equation 4"
    published: ClassVar[str] = "38.41, Nah et al. 2023"

    name: Literal["fl"] = "fl"
    gamma: NonNegative = 1.0
    """γ of the focal factor (1 − p)^γ."""

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        from ffds.losses import FocalLoss

        return (Stage("focal", FocalLoss(self.gamma)),)


class ClassBalanced(Method):
    """Cross-entropy weighted by the effective number of samples (Cui et al. 2019)."""

    source: ClassVar[str] = "Cui et al., Class-balanced loss, CVPR 2019, section 4.1"
    published: ClassVar[str] = "38.32, Nah et al. 2023"

    name: Literal["cb"] = "cb"
    beta: Beta = 0.9999
    """β of the effective number of samples, (1 − β^n) / (1 − β), whose inverse weights a class."""
    weight_scale: WeightScale = "mean"
    """Sum of the class weights: C (mean), 1/C as in the authors' code (released), or the formula's (none)."""

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        from ffds.losses import FocalLoss, class_balanced_weights

        weight = class_balanced_weights(class_counts, self.beta, self.weight_scale)
        return (Stage("class-balanced", FocalLoss(0.0, weight=weight)),)


class CBFocal(Method):
    """Focal loss with class-balanced weights (Cui et al. 2019)."""

    source: ClassVar[str] = "Cui et al., Class-balanced loss, CVPR 2019, section 4.3"
    published: ClassVar[str] = "39.60, Nah et al. 2023"

    name: Literal["cb-fl"] = "cb-fl"
    beta: Beta = 0.9999
    """β of the effective number of samples, (1 − β^n) / (1 − β), whose inverse weights a class."""
    gamma: NonNegative = 1.0
    """γ of the focal factor (1 − p)^γ."""
    weight_scale: WeightScale = "mean"
    """Sum of the class weights: C (mean), 1/C as in the authors' code (released), or the formula's (none)."""

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        from ffds.losses import FocalLoss, class_balanced_weights

        weight = class_balanced_weights(class_counts, self.beta, self.weight_scale)
        return (Stage("class-balanced focal", FocalLoss(self.gamma, weight=weight)),)


class Custom(Method):
    """A loss of your own, given from Python: ``ffds.train(recipe, loss=my_loss)``.

    `loss` is its repr, so that the run's hash knows it.
    """

    name: Literal["custom"] = "custom"
    loss: str = ""
    """Its repr and a sum of its state."""

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        fix = "pass it from Python: ffds.train(recipe, loss=my_loss)"
        raise InputError("method custom has no loss", got=self, fix=fix)
