"""Every method by its name in a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from ffds.methods.base import Method
from ffds.methods.decoupling import CRT, LWS, NearestClassMean, PostHocLogitAdjustment, TauNormalized
from ffds.methods.difficulty import DifficultyBalanced
from ffds.methods.ffds import DFFDS, FFDS
from ffds.methods.gcl import GCL
from ffds.methods.influence_balanced import IB, IBCB, IBFocal
from ffds.methods.ldam import LDAM, LDAMDRW
from ffds.methods.logit_adjusted import LADE, BalancedSoftmax, LogitAdjusted, VectorScaling
from ffds.methods.mixing import CMO, MixupDRW
from ffds.methods.proco import ProCo
from ffds.methods.reweighting import (
    CBFocal,
    ClassBalanced,
    CrossEntropy,
    Custom,
    DeferredReweighting,
    Focal,
    LabelSmoothing,
    Reweighting,
)
from ffds.methods.sampling import OverSampling, ProgressiveSampling, Smote, SquareRootSampling, UnderSampling
from ffds.methods.sigmoid import SigmoidCBFocal, SigmoidFocal

__all__ = ["GROUPS", "METHODS", "SETTINGS", "MethodSettings"]

GROUPS: dict[str, tuple[type[Method], ...]] = {
    "Table 1a of the paper": (
        *(CrossEntropy, Focal, ClassBalanced, CBFocal, LDAM, FFDS),
        *(LDAMDRW, IB, IBCB, IBFocal, DFFDS),
    ),
    "Class weights and label smoothing": (LabelSmoothing, Reweighting, DeferredReweighting),
    "Logit adjustment and margins": (LogitAdjusted, BalancedSoftmax, VectorScaling, LADE, GCL),
    "One-vs-all losses and class difficulty": (SigmoidFocal, SigmoidCBFocal, DifficultyBalanced),
    "Sampling": (OverSampling, UnderSampling, SquareRootSampling, ProgressiveSampling, Smote),
    "A classifier of its own after training": (
        *(CRT, LWS, TauNormalized, NearestClassMean, PostHocLogitAdjustment),
    ),
    "Mixing images": (MixupDRW, CMO),
    "Contrastive learning": (ProCo,),
}
"""The methods in groups by what they change, in the order in which tables and pages show them."""

METHODS: dict[str, type[Method]] = {
    method.model_fields["name"].default: method for group in GROUPS.values() for method in group
}
"""The methods that need no code of the user by their names, those of Table 1a first, in its order."""

SETTINGS: dict[str, type[Method]] = {**METHODS, "custom": Custom}
"""Every name that `method` may have in a recipe; `custom` stands in the recipe of a finished run."""

if TYPE_CHECKING:
    MethodSettings = Method
else:
    MethodSettings = Annotated[Union[tuple(SETTINGS.values())], Field(discriminator="name")]  # noqa: UP007
    """The type of the recipe's section `method`: the class that its `name` says."""
