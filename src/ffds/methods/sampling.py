"""Cross-entropy on images that are drawn otherwise than each one once in an epoch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ffds.methods.base import Sampler, Synthetic
from ffds.methods.reweighting import CrossEntropy
from ffds.settings import Role

__all__ = ["OverSampling", "ProgressiveSampling", "Smote", "SquareRootSampling", "UnderSampling"]


class OverSampling(CrossEntropy):
    """Cross-entropy on all classes equally often, the images of rare ones repeated (Buda et al. 2018)."""

    source: ClassVar[str] = "Buda et al., Neural Networks 2018"
    published: ClassVar[str] = ""

    name: Literal["over-sampling"] = "over-sampling"  # type: ignore[assignment]
    sampler: Annotated[Sampler, Role.ADDED] = "over-sampling"


class UnderSampling(CrossEntropy):
    """Cross-entropy on as many images of each class as the rarest one has (Buda et al. 2018)."""

    source: ClassVar[str] = "Buda et al., Neural Networks 2018"
    published: ClassVar[str] = ""

    name: Literal["under-sampling"] = "under-sampling"  # type: ignore[assignment]
    sampler: Annotated[Sampler, Role.ADDED] = "under-sampling"


class SquareRootSampling(CrossEntropy):
    """Cross-entropy, a class drawn with p ∝ √n, then one of its images (Kang et al. 2020)."""

    source: ClassVar[str] = "Kang et al., ICLR 2020, equation 1 with q = 1/2"
    published: ClassVar[str] = "35.33, Zhang et al. 2021"

    name: Literal["sqrt-sampling"] = "sqrt-sampling"  # type: ignore[assignment]
    sampler: Annotated[Sampler, Role.ADDED] = "square-root"


class ProgressiveSampling(CrossEntropy):
    """Cross-entropy, the classes drawn ever more equally from epoch to epoch (Kang et al. 2020)."""

    source: ClassVar[str] = "Kang et al., ICLR 2020, equation 2"
    published: ClassVar[str] = "39.10, Zhang et al. 2021"

    name: Literal["progressive-sampling"] = "progressive-sampling"  # type: ignore[assignment]
    sampler: Annotated[Sampler, Role.ADDED] = "progressive"


class Smote(CrossEntropy):
    """Cross-entropy on classes balanced with synthetic images between neighbours (Chawla et al. 2002)."""

    source: ClassVar[str] = "Chawla et al., SMOTE, JAIR 2002, section 4.2"
    published: ClassVar[str] = ""

    name: Literal["smote"] = "smote"  # type: ignore[assignment]
    neighbors: Annotated[int, Field(ge=1)] = 5
    """k: a synthetic image lies between an image and one of its k nearest ones of the same class."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the synthetic images."""

    @property
    def synthetic(self) -> Synthetic:
        """The synthetic images that join the training images."""
        return Synthetic(self.neighbors, self.seed)
