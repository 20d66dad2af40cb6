"""One-vs-all focal losses, as the class-balanced loss was published and released (Cui et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from ffds.methods.base import Beta, Method, Stage
from ffds.methods.reweighting import CUI_MILESTONES
from ffds.settings import Milestones, NonNegative

__all__ = ["SigmoidCBFocal", "SigmoidFocal"]


class SigmoidFocal(Method):
    """Focal loss on a sigmoid for each class, one against all others (Cui et al. 2019)."""

    prior_bias: ClassVar[bool] = True
    source: ClassVar[str] = "Cui et al., Class-balanced loss, CVPR 2019, section 4.3"
    published: ClassVar[str] = "38.41, Cui et al. 2019"

    name: Literal["sigmoid-fl"] = "sigmoid-fl"
    gamma: NonNegative = 1.0
    """γ of the focal factor (1 − p)^γ."""
    milestones: Milestones | None = CUI_MILESTONES

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        from ffds.losses import SigmoidFocalLoss

        return (Stage("sigmoid focal", SigmoidFocalLoss(self.gamma)),)


class SigmoidCBFocal(SigmoidFocal):
    """Focal loss on a sigmoid for each class, with class-balanced weights (Cui et al. 2019)."""

    source: ClassVar[str] = "Cui et al., Class-balanced loss, CVPR 2019, section 4.3"
    published: ClassVar[str] = "39.60, Cui et al. 2019"

    name: Literal["sigmoid-cb-fl"] = "sigmoid-cb-fl"  # type: ignore[assignment]
    beta: Beta = 0.9999
    """β of the effective number of samples, (1 − β^n) / (1 − β), whose inverse weights a class."""

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        from ffds.losses import SigmoidFocalLoss, class_balanced_weights

        weight = class_balanced_weights(class_counts, self.beta)
        return (Stage("class-balanced sigmoid focal", SigmoidFocalLoss(self.gamma, weight=weight)),)
