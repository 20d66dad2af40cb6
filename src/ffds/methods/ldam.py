"""LDAM: margins that are larger for rarer classes, on a cosine head (Cao et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from ffds.methods.base import Beta, Head, Method, Stage
from ffds.settings import Fraction, Milestones, Positive

__all__ = ["LDAM", "LDAMDRW"]

MILESTONES: Milestones = ((0.8, 0.01), (0.9, 0.0001))
"""Learning-rate drops of the released code: after a fraction of the epochs, to this factor."""


class _Margins(Method):
    head: ClassVar[Head] = "cosine"

    max_margin: Positive = 0.5
    scale: Positive = 30.0
    milestones: Milestones | None = MILESTONES

    def _stage(self, class_counts: Sequence[int], beta: float | None = None) -> Stage:
        from ffds.losses import LDAMLoss, class_balanced_weights

        weight = None if beta is None else class_balanced_weights(class_counts, beta)
        loss = LDAMLoss(class_counts, max_margin=self.max_margin, scale=self.scale, weight=weight)
        return Stage("ldam" if beta is None else "ldam, re-weighted", loss)


class LDAM(_Margins):
    """Label-distribution-aware margins on a cosine head (Cao et al. 2019)."""

    name: Literal["ldam"] = "ldam"

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        return (self._stage(class_counts),)


class LDAMDRW(_Margins):
    """LDAM, with class-balanced weights from `start` on (Cao et al. 2019)."""

    name: Literal["ldam-drw"] = "ldam-drw"
    beta: Beta = 0.9999
    start: Fraction = 0.8

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        return self._stage(class_counts), self._stage(class_counts, self.beta)
