"""From one value per sample to the number that is minimised."""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

from ffds.errors import InputError

__all__ = ["Reduction", "WeightedMean", "reduced", "validated_reduction"]

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


@runtime_checkable
class WeightedMean(Protocol):
    """A loss whose mean does not divide by the batch size; your own may say so too.

    Where ranks share a batch, each one's mean counts by its part of what the mean of the batch divides by.
    """

    def divisor(self, target: Tensor) -> Tensor:
        """What the mean over target (N,) divides by, ()."""
