"""Influence-balanced training: samples weighted by their influence after cross-entropy (Park et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from ffds.methods.base import Beta, Method, Stage, cross_entropy
from ffds.settings import Fraction, Milestones, NonNegative, Positive, Role

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["IB", "IBCB", "IBFocal"]


class IB(Method):
    """Influence-balanced loss after cross-entropy, weights 1/n (Park et al. 2021)."""

    source: ClassVar[str] = "Park et al., Influence-balanced loss, ICCV 2021, weights 1/n"
    published: ClassVar[str] = "42.14, Nah et al. 2023"

    name: Literal["ib"] = "ib"
    alpha: Positive = 1000.0
    """α, the factor of the loss."""
    epsilon: Positive = 1e-3
    """ε, added to the influence, by which the loss is divided."""
    start: Fraction = 0.5
    """Fraction of the epochs after which the second loss begins."""
    milestones: Milestones | None = ((0.5, 0.01), (0.8, 0.0001), (0.9, 0.000001))

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        from ffds.losses import InfluenceBalancedLoss

        settings = self.model_dump(include={"alpha", "epsilon", "gamma", "weighted_probability"})
        loss = InfluenceBalancedLoss(**settings, weight=self._class_weight(class_counts))
        return cross_entropy(), Stage("influence-balanced", loss, with_features=True)

    def _class_weight(self, class_counts: Sequence[int]) -> Tensor:
        from ffds.losses import inverse_frequency_weights

        return inverse_frequency_weights(class_counts)


class IBCB(IB):
    """Influence-balanced loss after cross-entropy, class-balanced weights (Park et al. 2021)."""

    source: ClassVar[str] = "Park et al., Influence-balanced loss, ICCV 2021, class-balanced weights"
    published: ClassVar[str] = "41.31, Nah et al. 2023"

    name: Literal["ib-cb"] = "ib-cb"  # type: ignore[assignment]
    beta: Beta = 0.9999
    """β of the effective number of samples, (1 − β^n) / (1 − β), whose inverse weights a class."""

    def _class_weight(self, class_counts: Sequence[int]) -> Tensor:
        from ffds.losses import class_balanced_weights

        return class_balanced_weights(class_counts, self.beta)


class IBFocal(IB):
    """Influence-balanced focal loss after cross-entropy, weights 1/n (Park et al. 2021)."""

    source: ClassVar[str] = "Park et al., Influence-balanced loss, ICCV 2021, focal form"
    published: ClassVar[str] = "42.06, Nah et al. 2023"

    name: Literal["ib-fl"] = "ib-fl"  # type: ignore[assignment]
    gamma: NonNegative = 1.0
    """γ of the focal factor (1 − p)^γ."""
    weighted_probability: Annotated[bool, Role.ADDED] = False
    """Whether its p is exp(−w·CE) of the weighted cross-entropy, as in the released code."""
