"""FFDS and its deferred version, the methods of the paper (Nah et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from ffds.errors import InputError
from ffds.methods.base import Beta, Method, Stage, WeightScale, cross_entropy
from ffds.settings import Finite, Fraction, NonNegative

if TYPE_CHECKING:
    from ffds.losses import FFDSLoss

__all__ = ["DFFDS", "FFDS"]


class FFDS(Method):
    """Frequency weighted focusing with dynamic smoothing, from the first epoch (Nah et al. 2023)."""

    source: ClassVar[str] = "Nah et al., CVPR Workshops 2023, equation 1"
    published: ClassVar[str] = "40.74, Nah et al. 2023"

    name: Literal["ffds"] = "ffds"
    beta: Beta = 0.9999
    """β of the effective number of samples, (1 − β^n) / (1 − β), whose inverse weights a class."""
    k: Annotated[Finite, Field(ge=0, le=1)] = 0.9
    """Strength of the dynamic smoothing; 0 switches it off."""
    num_groups: Annotated[int, Field(ge=1)] = 10
    """Groups of classes, by training images, whose mean probabilities are the reference p̄."""
    gamma_min: NonNegative = 0.0
    """γ of the rarest class."""
    gamma_max: NonNegative = 3.0
    """γ of the most frequent class."""
    curve: Literal["linear", "convex", "concave"] = "concave"
    """How γ rises between them with the number of training images."""
    label_smoothing: Annotated[Finite, Field(ge=0, lt=1)] = 0.1
    """ε of label smoothing, spread over the other classes."""
    weight_scale: WeightScale = "mean"
    """Sum of the class weights: C (mean), 1/C as in the authors' code (released), or the formula's (none)."""
    cold_start: Literal["cross_entropy", "unsmoothed"] = "cross_entropy"
    """The loss before any group mean exists: cross-entropy, or FFDS with p̂ = p."""

    def disagreements(self) -> Iterator[str]:
        if self.gamma_min > self.gamma_max:
            yield f"gamma_min {self.gamma_min} is above gamma_max {self.gamma_max}"

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        return (Stage("ffds", self._loss(class_counts)),)

    def _loss(self, class_counts: Sequence[int]) -> FFDSLoss:
        from ffds.losses import FFDSLoss

        key, groups, classes = "method.num_groups", self.num_groups, len(class_counts)
        if groups > classes:
            allowed, fix = f"1 to {classes}, the number of classes", f"{key}={classes}"
            raise InputError("more groups than classes", where=key, got=groups, allowed=allowed, fix=fix)
        own = FFDS.model_fields.keys() - Method.model_fields.keys()
        return FFDSLoss(class_counts, **self.model_dump(include=own))


class DFFDS(FFDS):
    """Deferred FFDS: cross-entropy until `start`, then FFDS (Nah et al. 2023, Algorithm 1).

    `observe`: gather the first group means in the last epoch of cross-entropy, as the paper defines them.
    Without it the first FFDS epoch is a cold start, as in the authors' released code.
    """

    source: ClassVar[str] = "Nah et al., CVPR Workshops 2023, algorithm 1"
    published: ClassVar[str] = "43.46, Nah et al. 2023"

    name: Literal["d-ffds"] = "d-ffds"  # type: ignore[assignment]
    start: Fraction = 0.65
    """Fraction of the epochs after which the second loss begins."""
    observe: bool = True
    """Whether the last epoch before it gathers the first group means."""

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        loss = self._loss(class_counts)
        return replace(cross_entropy(), observed_for=loss if self.observe else None), Stage("ffds", loss)
