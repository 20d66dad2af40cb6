"""What every section of a recipe shares: frozen, strict, closed, finite."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

__all__ = ["Finite", "Fraction", "Milestones", "NonNegative", "Positive", "Section"]

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[Finite, Field(gt=0)]
NonNegative = Annotated[Finite, Field(ge=0)]
Fraction = Annotated[Finite, Field(gt=0, lt=1)]
"""A point of the schedule as a part of its epochs, so that it scales with them."""


def _rising(milestones: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    points = [at for at, _ in milestones]
    if points != sorted(set(points)):
        raise ValueError(f"milestones must rise, got {points}")
    return milestones


Milestones = Annotated[
    tuple[Annotated[tuple[Fraction, Positive], Field(strict=False)], ...],
    Field(strict=False),
    AfterValidator(_rising),
]
"""Pairs (after this fraction of the epochs, learning rate = base rate times this factor)."""


class Section(BaseModel):
    """A part of a recipe: unknown keys, wrong types, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True)

    def disagreements(self) -> Iterator[str]:
        """What the fields of this section hold against each other, one line each, naming the fields."""
        yield from ()

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if messages := list(self.disagreements()):
            raise ValueError("\n".join(messages))
        return self
