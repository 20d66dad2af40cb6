"""Methods that mix images of their own accord: mixup with deferred weights, and CMO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ffds.methods.base import Beta, Method, Mix, Stage
from ffds.settings import Finite, Fraction, Milestones, NonNegative

__all__ = ["CMO", "MixupDRW"]

Alpha = Annotated[Finite, Field(gt=0, le=100)]
Probability = Annotated[Finite, Field(gt=0, le=1)]


class MixupDRW(Method):
    """Mixup throughout, class-balanced weights from `start` on (Zhang et al. 2018, Cao et al. 2019).

    The released code of imbalanced-DL: β of the weights is 0 until epoch 160 of 200, then 0.9999, Σ w_c = C;
    the weighted loss is λ w_y ℓ(z, y) + (1 − λ) w_y′ ℓ(z, y′), its mean divides by the batch size.
    """

    mixes: ClassVar[bool] = True
    source: ClassVar[str] = "Zhang et al., mixup, ICLR 2018; weights as Cao et al., LDAM, NeurIPS 2019"
    published: ClassVar[str] = "46.91 at 300 epochs, imbalanced-DL 2022"

    name: Literal["mixup-drw"] = "mixup-drw"
    alpha: Alpha = 1.0
    """α of mixup, whose λ comes from Beta(α, α)."""
    beta: Beta = 0.9999
    """β of the effective number of samples, (1 − β^n) / (1 − β), whose inverse weights a class."""
    start: Fraction = 0.8
    """Fraction of the epochs after which the second loss begins."""
    milestones: Milestones | None = ((0.8, 0.01), (0.9, 0.0001))

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        from torch import nn

        from ffds.losses import FocalLoss, class_balanced_weights

        mix = Mix(mixup=self.alpha)
        weighted = FocalLoss(0.0, weight=class_balanced_weights(class_counts, self.beta))
        return Stage("mixup", nn.CrossEntropyLoss(), mix=mix), Stage("mixup, re-weighted", weighted, mix=mix)


class CMO(Method):
    """CutMix whose pasted images come mostly from rare classes (Park et al. 2022).

    As in the released code, the first 4 and the last 3 of 200 epochs are without, and the learning rate falls
    by 100 twice.
    """

    mixes: ClassVar[bool] = True
    source: ClassVar[str] = "Park et al., The majority can help the minority, CVPR 2022, algorithm 1"
    published: ClassVar[str] = "46.6, Park et al. 2022"

    name: Literal["cmo"] = "cmo"
    loss: Literal["ce", "balanced-softmax"] = "balanced-softmax"
    """Of the mixed images: cross-entropy or balanced softmax."""
    power: NonNegative = 1.0
    """r: a pasted image is drawn with a probability ∝ 1 / n^r, n training images being of its class."""
    probability: Probability = 0.5
    """With which a batch is mixed."""
    alpha: Alpha = 1.0
    """α of CutMix, whose λ comes from Beta(α, α)."""
    milestones: Milestones | None = ((0.8, 0.01), (0.9, 0.0001))

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        from torch import nn

        from ffds.losses import LogitAdjustedLoss

        loss = nn.CrossEntropyLoss() if self.loss == "ce" else LogitAdjustedLoss(class_counts)
        mix = Mix(
            cutmix=self.alpha,
            probability=self.probability,
            partner_power=self.power,
            first=4 / 200,
            last=3 / 200,
        )
        return (Stage("cmo", loss, mix=mix),)
