"""The settings of each method of Table 1, with the values of its own released code as defaults."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from ffds.settings import Finite, Fraction, Milestones, NonNegative, Positive, Section

__all__ = [
    "DEFERRED",
    "DFFDS",
    "FFDS",
    "IB",
    "IBCB",
    "LDAM",
    "LDAMDRW",
    "METHODS",
    "SETTINGS",
    "CBFocal",
    "ClassBalanced",
    "CrossEntropy",
    "Custom",
    "Focal",
    "IBFocal",
    "MethodSettings",
    "Sampler",
]

Sampler = Literal["instance-balanced", "class-balanced"]
WeightScale = Literal["none", "mean", "released"]
Beta = Annotated[Finite, Field(ge=0, lt=1)]
ClosedFraction = Annotated[Finite, Field(ge=0, le=1)]

# Learning-rate drops after a fraction of the epochs, as in the released code of each family.
LDAM_MILESTONES: Milestones = ((0.8, 0.01), (0.9, 0.0001))
IB_MILESTONES: Milestones = ((0.5, 0.01), (0.8, 0.0001), (0.9, 0.000001))


class _Method(Section):
    name: str
    milestones: Milestones | None = Field(
        default=None, description="this method's own learning-rate drops; null: those of the schedule"
    )
    sampler: Sampler = Field(
        default="instance-balanced",
        description="class-balanced: each draw first takes a class, all alike, then one of its images; "
        "deferred methods do so from `start` on",
    )


class CrossEntropy(_Method):
    """Plain cross-entropy, the baseline."""

    name: Literal["ce"] = "ce"


class Focal(_Method):
    """Focal loss (1 - p)^gamma CE (Lin et al. 2017)."""

    name: Literal["fl"] = "fl"
    gamma: NonNegative = 1.0


class ClassBalanced(_Method):
    """Cross-entropy weighted by the effective number of samples (Cui et al. 2019)."""

    name: Literal["cb"] = "cb"
    beta: Beta = 0.9999
    weight_scale: WeightScale = "mean"


class CBFocal(_Method):
    """Focal loss with class-balanced weights (Cui et al. 2019)."""

    name: Literal["cb-fl"] = "cb-fl"
    beta: Beta = 0.9999
    gamma: NonNegative = 1.0
    weight_scale: WeightScale = "mean"


class _Margins(_Method):
    max_margin: Positive = 0.5
    scale: Positive = 30.0
    milestones: Milestones | None = LDAM_MILESTONES


class LDAM(_Margins):
    """Label-distribution-aware margins on a cosine head (Cao et al. 2019)."""

    name: Literal["ldam"] = "ldam"


class LDAMDRW(_Margins):
    """LDAM, with class-balanced weights from `start` on (Cao et al. 2019)."""

    name: Literal["ldam-drw"] = "ldam-drw"
    beta: Beta = 0.9999
    start: Fraction = 0.8


class _InfluenceBalanced(_Method):
    alpha: Positive = 1000.0
    epsilon: Positive = 1e-3
    start: Fraction = 0.5
    milestones: Milestones | None = IB_MILESTONES


class IB(_InfluenceBalanced):
    """Influence-balanced loss after cross-entropy, weights 1/n (Park et al. 2021)."""

    name: Literal["ib"] = "ib"


class IBCB(_InfluenceBalanced):
    """Influence-balanced loss after cross-entropy, class-balanced weights (Park et al. 2021)."""

    name: Literal["ib-cb"] = "ib-cb"
    beta: Beta = 0.9999


class IBFocal(_InfluenceBalanced):
    """Influence-balanced focal loss after cross-entropy, weights 1/n (Park et al. 2021)."""

    name: Literal["ib-fl"] = "ib-fl"
    gamma: NonNegative = 1.0


class FFDS(_Method):
    """Frequency weighted focusing with dynamic smoothing, from the first epoch (Nah et al. 2023)."""

    name: Literal["ffds"] = "ffds"
    beta: Beta = 0.9999
    k: ClosedFraction = 0.9
    num_groups: Annotated[int, Field(ge=1)] = 10
    gamma_min: NonNegative = 0.0
    gamma_max: NonNegative = 3.0
    curve: Literal["linear", "convex", "concave"] = "concave"
    label_smoothing: Annotated[Finite, Field(ge=0, lt=1)] = 0.1
    weight_scale: WeightScale = "mean"
    cold_start: Literal["cross_entropy", "unsmoothed"] = "cross_entropy"

    def disagreements(self) -> Iterator[str]:
        """The exponent must not fall with frequency: gamma_min <= gamma_max."""
        if self.gamma_min > self.gamma_max:
            yield f"gamma_min {self.gamma_min} is above gamma_max {self.gamma_max}"


class DFFDS(FFDS):
    """Deferred FFDS: cross-entropy until `start`, then FFDS (Nah et al. 2023, Algorithm 1).

    `observe`: gather the first group means in the last epoch of cross-entropy, as the paper defines them.
    Without it the first FFDS epoch is a cold start, as in the authors' released code.
    """

    name: Literal["d-ffds"] = "d-ffds"  # type: ignore[assignment]
    start: Fraction = 0.65
    observe: bool = True


class Custom(_Method):
    """A loss of your own, given from Python: ``ffds.train(recipe, loss=my_loss)``.

    `loss` is its repr, so that the run's hash knows it.
    """

    name: Literal["custom"] = "custom"
    loss: str = ""


MethodSettings = Annotated[
    CrossEntropy
    | Focal
    | ClassBalanced
    | CBFocal
    | LDAM
    | FFDS
    | LDAMDRW
    | IB
    | IBCB
    | IBFocal
    | DFFDS
    | Custom,
    Field(discriminator="name"),
]

DEFERRED = (LDAMDRW, IB, IBCB, IBFocal, DFFDS)
"""The methods with a second phase: those that have a `start`."""

METHODS: dict[str, type[Section]] = {
    "ce": CrossEntropy,
    "fl": Focal,
    "cb": ClassBalanced,
    "cb-fl": CBFocal,
    "ldam": LDAM,
    "ffds": FFDS,
    "ldam-drw": LDAMDRW,
    "ib": IB,
    "ib-cb": IBCB,
    "ib-fl": IBFocal,
    "d-ffds": DFFDS,
}
"""Every method that needs no code of the user, by name, in the order of Table 1a."""

SETTINGS: dict[str, type[Section]] = {**METHODS, "custom": Custom}
"""Every name that `method` may have in a recipe; `custom` stands in the recipe of a finished run."""
