"""From one value per sample to the number that is minimised."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ffds.errors import InputError

__all__ = ["Reduction", "reduced", "validated_reduction"]

Reduction = Literal["mean", "sum", "none"]


def validated_reduction(reduction: Reduction) -> Reduction:
    """The name itself, or an InputError that lists the known ones."""
    if reduction not in ("mean", "sum", "none"):
        raise InputError("unknown reduction", got=reduction, allowed="mean, sum, none")
    return reduction


def reduced(values: Tensor, reduction: Reduction) -> Tensor:
    """Mean over the batch size, sum, or the values (N,) as they are."""
    if reduction == "mean":
        return values.mean()
    return values.sum() if reduction == "sum" else values
