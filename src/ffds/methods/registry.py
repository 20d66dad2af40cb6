"""Every method by its name in a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from ffds.methods.base import Method
from ffds.methods.ffds import DFFDS, FFDS
from ffds.methods.influence_balanced import IB, IBCB, IBFocal
from ffds.methods.ldam import LDAM, LDAMDRW
from ffds.methods.reweighting import CBFocal, ClassBalanced, CrossEntropy, Custom, Focal

__all__ = ["METHODS", "SETTINGS", "MethodSettings"]

METHODS: dict[str, type[Method]] = {
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
"""The methods that need no code of the user, in the order of Table 1a."""

SETTINGS: dict[str, type[Method]] = {**METHODS, "custom": Custom}
"""Every name that `method` may have in a recipe; `custom` stands in the recipe of a finished run."""

if TYPE_CHECKING:
    MethodSettings = Method
else:
    MethodSettings = Annotated[Union[tuple(SETTINGS.values())], Field(discriminator="name")]  # noqa: UP007
    """The type of the recipe's section `method`: the class that its `name` says."""
