"""GCL: logits clouded by Gaussian noise, larger for rarer classes, on a cosine head (Li et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ffds.methods.base import Head, Method, Sampler, Stage
from ffds.settings import Finite, Milestones, NonNegative, Positive, Role, epoch_at

__all__ = ["GCL"]


class GCL(Method):
    """Scaled cosines less noise that is larger for rarer classes, then the classifier alone (Li et al. 2022).

    The authors train both stages with mixup (`data.mixup=1`) and batches of 64. The learning rate falls as
    the schedule says; for the classifier it falls from 0.008 along a half cosine, of which
    `classifier_milestones` are the middles of the thirds.
    """

    head: ClassVar[Head] = "cosine"
    source: ClassVar[str] = "Li et al., Gaussian clouded logit adjustment, CVPR 2022"

    name: Literal["gcl"] = "gcl"
    sampler: Annotated[Sampler, Role.ADDED] = "class-balanced"
    """How the phase of the classifier draws images."""
    cloud: NonNegative = 0.5
    """Largest noise of a cosine, that of the rarest class."""
    scale: Positive = 30.0
    """s, by which the cosines are multiplied until the phase of the classifier."""
    classifier_scale: Positive = 20.0
    """s in that phase."""
    margin: NonNegative = 0.1
    """Margin of the label's cosine in that phase."""
    gamma: NonNegative = 1.0
    """γ of the focal factor (1 − p)^γ in that phase."""
    classifier_epochs: Annotated[Finite, Field(gt=0, le=10)] = 0.15
    """Epochs of the classifier as a fraction of those of the schedule, after which they come."""
    classifier_milestones: Milestones = ((0.001, 0.075), (1 / 3, 0.04), (2 / 3, 0.005))
    """Learning-rate drops of these epochs, as fractions of them."""

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        from ffds.losses import GCLLoss

        clouded = GCLLoss(class_counts, cloud=self.cloud, scale=self.scale)
        focal = GCLLoss(
            class_counts,
            cloud=self.cloud,
            scale=self.classifier_scale,
            margin=self.margin,
            gamma=self.gamma,
        )
        return Stage("gaussian clouded", clouded), Stage("classifier", focal, trains="classifier")

    def extra_epochs(self, epochs: int) -> int:
        return max(1, epoch_at(self.classifier_epochs, epochs))

    @property
    def extra_milestones(self) -> Milestones:
        return self.classifier_milestones
