"""What every section of a recipe shares: frozen, strict, closed, finite; and the roles of its keys."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from decimal import ROUND_HALF_UP, Decimal
from enum import Enum
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

__all__ = ["AugmentStep", "Finite", "Fraction", "Milestones", "NonNegative", "Positive", "Role", "Section"]
__all__ += ["by_dotted_key", "epoch_at", "json_digest", "opposed_steps"]

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[Finite, Field(gt=0)]
NonNegative = Annotated[Finite, Field(ge=0)]
Fraction = Annotated[Finite, Field(gt=0, lt=1)]
"""A point of the run as a fraction of its epochs, so that it scales with their number."""


def _rising(milestones: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    points = [at for at, _ in milestones]
    if points != sorted(set(points)):
        raise ValueError(f"milestones must rise, got {points}")
    return milestones


_Milestone = Annotated[tuple[Fraction, Positive], Field(strict=False)]
Milestones = Annotated[tuple[_Milestone, ...], Field(strict=False), AfterValidator(_rising)]
"""Pairs (fraction of the epochs, factor): from there on the base learning rate is multiplied by it."""

Policy = Literal["randaugment", "trivialaugment", "autoaugment-cifar", "autoaugment-imagenet"]
Recoloring = Literal["color-jitter", "grayscale"]
Erasing = Literal["cutout", "random-erasing"]
AugmentStep = Literal["pad-crop", "resized-crop", "hflip", "vflip", Policy, Recoloring, Erasing]
"""A random change of training images, see `ffds.data.transforms.TrainTransform`."""


def opposed_steps(steps: tuple[AugmentStep, ...], key: str) -> Iterator[str]:
    """What is wrong with the steps of one list together, one line each; `key` names the list."""
    if "pad-crop" in steps and "resized-crop" in steps:
        yield f"{key} takes one crop: pad-crop or resized-crop"
    if len(policies := [step for step in steps if step in get_args(Policy)]) > 1:
        yield f"{key} takes one policy: {' or '.join(policies)}"
    if len(set(steps)) != len(steps):
        yield f"{key} names a step twice"


class Section(BaseModel):
    """A part of a recipe: unknown keys, wrong types, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True)

    def disagreements(self) -> Iterator[str]:
        """Contradictions between fields of this section, one line each, naming the fields."""
        return iter(())

    def has_default(self, name: str) -> bool:
        """Whether a field has its default value."""
        return bool(getattr(self, name) == type(self).model_fields[name].default)

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if messages := list(self.disagreements()):
            raise ValueError("\n".join(messages))
        return self


class Role(Enum):
    """What a key of a recipe is for, marked on its field; a key without a mark decides what is measured."""

    COLUMN = "identifies a run; tables of runs have a column for it"
    PLACE = "says where the images lie, which differs from machine to machine: null in the run's identity"
    LOADING = "says how images come from where they lie"
    RUNNING = "says how a machine does the same training"
    NEUTRAL = "changes no bit of the result and is no part of the run's identity"
    ADDED = "is younger than finished runs: no part of the identity while it has its default"


def epoch_at(fraction: float, epochs: int) -> int:
    """The epoch, counted from 0, that begins after a fraction of the run: ⌊fraction · epochs + ½⌋.

    Computed with decimal numbers, so that 0.145 of 100 epochs is 14.5 and rounds up.

    >>> epoch_at(0.65, 200), epoch_at(0.65, 30), epoch_at(0.145, 100)
    (130, 20, 15)
    """
    return int((Decimal(repr(fraction)) * epochs).to_integral_value(ROUND_HALF_UP))


def by_dotted_key(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Every value of nested mappings by its dotted key, in order.

    >>> by_dotted_key({"data": {"name": "digits", "cut": [3, 4, 3]}, "name": "own"})
    {'data.name': 'digits', 'data.cut': [3, 4, 3], 'name': 'own'}
    """
    values: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            values |= {f"{name}.{key}": leaf for key, leaf in by_dotted_key(value).items()}
        else:
            values[name] = value
    return values


def json_digest(content: object) -> str:
    """sha256 of the canonical JSON of a value: keys sorted, no spaces."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
