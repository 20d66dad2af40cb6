"""LDAM: margins that are larger for rarer classes, on a cosine head (Cao et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from ffds.methods.base import Beta, Head, Method, Stage
from ffds.settings import Fraction, Milestones, Positive

__all__ = ["LDAM", "LDAMDRW"]


class LDAM(Method):
    """Label-distribution-aware margins on a cosine head (Cao et al. 2019)."""

    head: ClassVar[Head] = "cosine"
    source: ClassVar[str] = "Cao et al., Label-distribution-aware margins, NeurIPS 2019, section 3.2"
    published: ClassVar[str] = "39.60, Nah et al. 2023"

    name: Literal["ldam"] = "ldam"
    max_margin: Positive = 0.5
    """Margin of the rarest class."""
    scale: Positive = 30.0
    """s, by which the cosines are multiplied."""
    milestones: Milestones | None = ((0.8, 0.01), (0.9, 0.0001))

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        from ffds.losses import LDAMLoss

        loss = LDAMLoss(class_counts, max_margin=self.max_margin, scale=self.scale)
        return (Stage("ldam", loss),)


class LDAMDRW(LDAM):
    """LDAM, with class-balanced weights from `start` on (Cao et al. 2019)."""

    source: ClassVar[str] = "Cao et al., Label-distribution-aware margins, NeurIPS 2019, algorithm 1"
    published: ClassVar[str] = "42.04, Nah et al. 2023"

    name: Literal["ldam-drw"] = "ldam-drw"  # type: ignore[assignment]
    beta: Beta = 0.9999
    """β of the effective number of samples, (1 − β^n) / (1 − β), whose inverse weights a class."""
    start: Fraction = 0.8
    """Fraction of the epochs after which the second loss begins."""

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        from ffds.losses import LDAMLoss, class_balanced_weights

        weight = class_balanced_weights(class_counts, self.beta)
        loss = LDAMLoss(class_counts, max_margin=self.max_margin, scale=self.scale, weight=weight)
        return *super().stages(class_counts), Stage("ldam, re-weighted", loss)
