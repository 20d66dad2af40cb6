"""GCL: logits clouded by Gaussian noise, larger for rarer classes, on a cosine head (Li et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from ffds.methods.base import Head, Method, Stage
from ffds.settings import NonNegative, Positive

__all__ = ["GCL"]


class GCL(Method):
    """Cross-entropy of scaled cosines, less noise that is larger for rarer classes (Li et al. 2022).

    The first of the authors' two stages, without the classifier that they train after it. They train with
    batches of 64 and mixup (`data.mixup=1`); the learning rate falls as the schedule says.
    """

    head: ClassVar[Head] = "cosine"
    source: ClassVar[str] = "Li et al., Gaussian clouded logit adjustment, CVPR 2022"
    published: ClassVar[str] = "48.71 with a classifier trained anew, Li et al. 2022"

    name: Literal["gcl"] = "gcl"
    cloud: NonNegative = 0.5
    """Largest noise of a cosine, that of the rarest class."""
    scale: Positive = 30.0
    """s, by which the cosines are multiplied."""

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        from ffds.losses import GCLLoss

        return (Stage("gaussian clouded", GCLLoss(class_counts, cloud=self.cloud, scale=self.scale)),)
