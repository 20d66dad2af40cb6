"""Cross-entropy, and the losses that weight its samples or classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ffds.errors import InputError
from ffds.methods.base import Beta, Method, Stage, WeightScale, cross_entropy
from ffds.settings import Finite, Fraction, Milestones, NonNegative

__all__ = ["CUI_MILESTONES", "CBFocal", "ClassBalanced", "CrossEntropy", "Custom", "DeferredReweighting"]
__all__ += ["Focal", "LabelSmoothing", "Reweighting"]

CUI_MILESTONES: Milestones = ((0.8, 0.01), (0.9, 0.0001))
"""The learning-rate drops of Cui et al. 2019, who say that with x0.1 the error would rise again."""

_BAG_OF_TRICKS = ((0.8, 0.01), (0.9, 0.0001))
"""The learning-rate drops of Bag of Tricks (Zhang et al. 2021), which are those of LDAM-DRW."""


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
    milestones: Milestones | None = CUI_MILESTONES

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
    milestones: Milestones | None = CUI_MILESTONES

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        from ffds.losses import FocalLoss, class_balanced_weights

        weight = class_balanced_weights(class_counts, self.beta, self.weight_scale)
        return (Stage("class-balanced focal", FocalLoss(self.gamma, weight=weight)),)


class LabelSmoothing(Method):
    """Cross-entropy with smoothed labels: 1 − ε + ε/C at the label, ε/C elsewhere (Szegedy et al. 2016).

    Its learning rate falls as in Bag of Tricks (Zhang et al. 2021).
    """

    source: ClassVar[str] = "Szegedy et al., Rethinking the Inception architecture, CVPR 2016, section 7"
    published: ClassVar[str] = "38.44, Zhang et al. 2021"

    name: Literal["ls"] = "ls"
    epsilon: Annotated[Finite, Field(ge=0, lt=1)] = 0.1
    """ε, the share of the label that all classes get alike."""
    milestones: Milestones | None = _BAG_OF_TRICKS

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        from torch import nn

        return (Stage("label smoothing", nn.CrossEntropyLoss(label_smoothing=self.epsilon)),)


class Reweighting(Method):
    """Cross-entropy weighted by n^(−power) from the first epoch, divided by Σ w_y.

    Power 1 is inverse class frequency, 0.5 its square root. Its learning rate falls as in Bag of Tricks.
    """

    source: ClassVar[str] = "Zhang et al., Bag of tricks, AAAI 2021, equation 2"
    published: ClassVar[str] = "32.27 (38.36 with power 0.5), Zhang et al. 2021"

    name: Literal["rw"] = "rw"
    power: NonNegative = 1.0
    """The power of 1/n."""
    milestones: Milestones | None = _BAG_OF_TRICKS

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        from ffds.losses import WeightedCrossEntropyLoss, inverse_frequency_weights

        weight = inverse_frequency_weights(class_counts, self.power)
        return (Stage("cross-entropy, re-weighted", WeightedCrossEntropyLoss(weight)),)


class DeferredReweighting(Reweighting):
    """Cross-entropy, weighted by n^(−power) from `start` on (Cao et al. 2019; Zhang et al. 2021)."""

    source: ClassVar[str] = "Cao et al., Label-distribution-aware margins, NeurIPS 2019, algorithm 1"
    published: ClassVar[str] = "41.62, Zhang et al. 2021"

    name: Literal["ce-drw"] = "ce-drw"  # type: ignore[assignment]
    start: Fraction = 0.8
    """Fraction of the epochs after which the second loss begins."""

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        return cross_entropy(), *super().stages(class_counts)


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
