"""What is learnt from one epoch for the next: the protocol, and the probabilities FFDS needs."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor

from ffds.losses import functional
from ffds.losses.precision import FullPrecision

__all__ = ["ClassProbabilities", "DeferredStart", "EpochStatistics"]


@runtime_checkable
class EpochStatistics(Protocol):
    """A loss that gathers statistics over an epoch, as `FFDSLoss` does; your own may do the same."""

    def observe(self, logits: Tensor, target: Tensor) -> None:
        """Gather from logits (N, C) and target (N,), without a loss."""

    def end_epoch(self) -> None:
        """Turn what was gathered, over all ranks, into the reference of the next epoch."""


class ClassProbabilities(FullPrecision):
    """p_y of an epoch, summed class by class: whatever the groups of a loss are, their means follow from it.

    So an epoch observed once serves every setting of FFDS that starts after it.

    Args:
        num_classes: C.

    Attributes:
        sums: Σ p_y over the samples of each class (C,).
        counts: samples of each class (C,) int64.
    """

    sums: Tensor
    counts: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("sums", torch.zeros(num_classes))
        self.register_buffer("counts", torch.zeros(num_classes, dtype=torch.int64))

    @torch.no_grad()
    def observe(self, logits: Tensor, target: Tensor) -> None:
        """Gather from logits (N, C) and target (N,).

        Raises:
            InputError: the logits have another number of classes.
        """
        functional.check_classes(logits, target, self.sums.shape)
        self.gather(target, torch.exp(-functional.cross_entropy(logits, target)))

    @torch.no_grad()
    def gather(self, target: Tensor, probability: Tensor) -> None:
        """Gather p_y (N,) of target (N,); NaN is left out, as one step that a loss scaler skips has it."""
        found = probability.nan_to_num(0).to(self.sums.dtype)
        # Batch by batch: sample by sample, float32 loses digits over the million samples of an epoch.
        self.sums.add_(torch.zeros_like(self.sums).index_add_(0, target, found))
        # For integers, the compiler would make a sort of index_add on a GPU.
        self.counts.scatter_add_(0, target, probability.eq(probability).long())

    @torch.no_grad()
    def sum_over_ranks(self) -> None:
        """Make the sums those of all ranks; every rank must call it."""
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self.sums)
            dist.all_reduce(self.counts)

    @torch.no_grad()
    def clear(self) -> None:
        """Forget everything gathered."""
        self.sums.zero_()
        self.counts.zero_()


class DeferredStart(Protocol):
    """A loss that starts from what was observed in the last epoch of another loss."""

    def start_from(self, observed: ClassProbabilities) -> None:
        """Take the probabilities of that epoch, over all ranks, as the reference."""
