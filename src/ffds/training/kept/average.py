"""The exponential moving average of a network's weights and buffers: what is scored, kept and loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn

__all__ = ["WeightAverage", "holding"]


class WeightAverage:
    """Averages ā ← d·ā + (1 − d)·w over the steps, with d = min(decay, (1 + t) / (10 + t)) in step t.

    The first steps count for little later on, so that a short training is not held at its initial weights.
    Averages and weights stay where they are in memory, and a step waits for no device: it may be a part of a
    CUDA graph. On several ranks weights are equal, and the running statistics of batch norm are averaged on
    each; those of the first rank are used.

    Attributes:
        weights: every floating-point parameter and buffer of the network by name, as the steps train it.
        averages: their averages.
    """

    def __init__(self, model: nn.Module, decay: float, device: torch.device) -> None:
        self.weights = {name: one for name, one in model.state_dict().items() if one.is_floating_point()}
        self.averages = {name: one.clone() for name, one in self.weights.items()}
        parameters = {name for name, _ in model.named_parameters()}
        self._buffers = [one for name, one in self.averages.items() if name not in parameters]
        self._decay, self._rate = decay, torch.zeros((), device=device)

    def start_step(self, number: int) -> None:
        """Say which step of the run comes next, 1 for the first; not a part of a CUDA graph."""
        self._rate.fill_(1 - min(self._decay, (1 + number) / (10 + number)))

    @torch.no_grad()
    def update(self, taken: Tensor) -> None:
        """Move the averages towards the weights if the step was taken, () bool."""
        for name, average in self.averages.items():
            # Chosen before it is averaged: buffers of a step that was not taken may be NaN.
            average.lerp_(torch.where(taken, self.weights[name], average), self._rate.to(average.dtype))

    def take_from_first_rank(self, fabric: Fabric) -> None:
        """Make the averages those of the first rank, which checkpoints hold."""
        if fabric.world_size > 1:
            for buffer in self._buffers:
                dist.broadcast(buffer, src=0)

    @torch.no_grad()
    def restore(self, averages: Mapping[str, Tensor]) -> None:
        """Go on with these averages."""
        for name, average in self.averages.items():
            average.copy_(averages[name])


@contextmanager
def holding(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """While entered, a network has these weights and buffers by name; they are copied, in place."""
    own = {name: one.clone() for name, one in model.state_dict().items()}
    try:
        model.load_state_dict({**own, **values})
        yield
    finally:
        model.load_state_dict(own)
