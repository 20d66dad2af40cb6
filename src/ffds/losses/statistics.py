"""What the training loop asks of a loss that learns from the epoch before."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

__all__ = ["EpochStatistics"]


@runtime_checkable
class EpochStatistics(Protocol):
    """A loss that gathers statistics over an epoch, as `FFDSLoss` does; your own may do the same."""

    def observe(self, logits: Tensor, target: Tensor) -> None:
        """Gather from logits (N, C) and target (N,), without a loss."""

    def end_epoch(self) -> None:
        """Turn what was gathered, over all ranks, into the reference of the next epoch."""
