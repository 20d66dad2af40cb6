"""ProCo: contrastive learning beside the logit-adjusted loss (Du et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ffds.methods.base import Method, Stage
from ffds.settings import AugmentStep, Finite, Milestones, NonNegative, Positive, opposed_steps

__all__ = ["ProCo"]


class ProCo(Method):
    """Views of an image against a distribution of each class, beside balanced softmax (Du et al. 2024).

    The first view is the one that the recipe's data section describes; it alone is classified. The others
    have the steps of `contrast_augment`, with the strengths of the data section.
    """

    source: ClassVar[str] = "Du et al., Probabilistic contrastive learning, TPAMI 2024"
    published: ClassVar[str] = "52.8, Du et al. 2024 (200 epochs, AutoAugment and Cutout)"
    views: ClassVar[bool] = True

    name: Literal["proco"] = "proco"
    alpha: NonNegative = 1.0
    """α, the weight of the contrastive loss."""
    temperature: Positive = 0.1
    """τ, by which the similarities of representations are divided."""
    dim: Annotated[int, Field(ge=16, le=2**14)] = 128
    """Dimensions of the representations."""
    hidden: Annotated[int, Field(ge=1, le=2**14)] = 512
    """Width of the hidden layer that leads to them."""
    contrast_views: Annotated[int, Field(ge=1, le=8)] = 2
    """Views of each image that are contrasted, beside the one that is classified."""
    contrast_augment: Annotated[tuple[AugmentStep, ...], Field(strict=False)] = (
        *("resized-crop", "hflip", "color-jitter", "grayscale"),
    )
    """Random changes of these views."""
    contrast_jitter: Annotated[Finite, Field(ge=0, le=1)] = 0.8
    """Probability of color-jitter in these views."""
    milestones: Milestones | None = ((0.8, 0.1), (0.9, 0.01))

    def disagreements(self) -> Iterator[str]:
        yield from opposed_steps(self.contrast_augment, "contrast_augment")

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        from ffds.losses import ProCoLoss

        settings = self.model_dump(include={"alpha", "temperature", "dim", "hidden"})
        view: dict[str, Any] = {"augment": self.contrast_augment}
        view["color_jitter_probability"] = self.contrast_jitter
        loss = ProCoLoss(class_counts, **settings)
        return (Stage("proco", loss, with_features=True, views=(view,) * self.contrast_views),)
