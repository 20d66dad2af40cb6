"""Influence-balanced training: samples weighted by their influence after cross-entropy (Park et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from ffds.methods.base import Beta, Method, Stage, cross_entropy
from ffds.settings import Fraction, Milestones, NonNegative, Positive

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["IB", "IBCB", "IBFocal"]

MILESTONES: Milestones = ((0.5, 0.01), (0.8, 0.0001), (0.9, 0.000001))
"""Learning-rate drops of the released code: after a fraction of the epochs, to this factor."""


class _InfluenceBalanced(Method):
    alpha: Positive = 1000.0
    epsilon: Positive = 1e-3
    start: Fraction = 0.5
    milestones: Milestones | None = MILESTONES

    def _stages(self, class_weight: Tensor, gamma: float = 0.0) -> tuple[Stage, ...]:
        from ffds.losses import InfluenceBalancedLoss

        loss = InfluenceBalancedLoss(alpha=self.alpha, epsilon=self.epsilon, gamma=gamma, weight=class_weight)
        return cross_entropy(), Stage("influence-balanced", loss, with_features=True)


class IB(_InfluenceBalanced):
    """Influence-balanced loss after cross-entropy, weights 1/n (Park et al. 2021)."""

    name: Literal["ib"] = "ib"

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        from ffds.losses import inverse_frequency_weights

        return self._stages(inverse_frequency_weights(class_counts))


class IBCB(_InfluenceBalanced):
    """Influence-balanced loss after cross-entropy, class-balanced weights (Park et al. 2021)."""

    name: Literal["ib-cb"] = "ib-cb"
    beta: Beta = 0.9999

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        from ffds.losses import class_balanced_weights

        return self._stages(class_balanced_weights(class_counts, self.beta))


class IBFocal(_InfluenceBalanced):
    """Influence-balanced focal loss after cross-entropy, weights 1/n (Park et al. 2021)."""

    name: Literal["ib-fl"] = "ib-fl"
    gamma: NonNegative = 1.0

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        from ffds.losses import inverse_frequency_weights

        return self._stages(inverse_frequency_weights(class_counts), self.gamma)
