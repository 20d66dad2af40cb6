"""One training step: gradients, and the update where they are finite."""

from __future__ import annotations

from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ffds.data.batches import Batch
from ffds.losses.reduction import WeightedMean
from ffds.methods import Phase
from ffds.randomness import derived_seed
from ffds.training.finite import FiniteWatch, diagnosis
from ffds.training.state import TrainingState

__all__ = ["TrainStep"]


class TrainStep:
    """A step of the run, without waiting for the device.

    Args:
        fabric: launched.
        forward: the network as Fabric set it up: images → logits and features.
        optimizer: of its parameters, as Fabric set it up.
        state: what the step changes.
        seed: of the run.
    """

    def __init__(
        self, fabric: Fabric, forward: nn.Module, optimizer: Any, state: TrainingState, seed: int
    ) -> None:
        self.fabric, self.forward, self.optimizer, self.state = fabric, forward, optimizer, state
        # bfloat16 and the CPU have no loss scaler, whatever the recipe says.
        scaled = bool(fabric.strategy.precision.state_dict())
        self.finite = FiniteWatch(fabric, state.model, state.optimizer, gradients=not scaled)
        self._seed = seed

    def __call__(self, phase: Phase, batch: Batch, *, observed: bool) -> None:
        """Take the step that the run has reached.

        Args:
            phase: of the epoch.
            batch: of the step.
            observed: whether p_y is gathered for a later loss.
        """
        logits, loss, share = self._gradients(phase, batch, self.state.reached.step)
        self.finite.look(self.state.reached.step, loss)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if observed:
            self.state.observed.observe(logits.detach(), batch.labels)
        self.state.accuracy.update(logits.detach(), batch.labels)
        self.state.loss_sum += loss.detach() * share * batch.global_size

    def diagnosis(self, phase: Phase, batch: Batch, step: int) -> dict[str, Any]:
        """Go back to a step that was not finite, and so updated no weight, and see what it met."""
        logits, loss, _ = self._gradients(phase, batch, step)
        return diagnosis(batch, logits, loss, self.state.model)

    def _gradients(self, phase: Phase, batch: Batch, step: int) -> tuple[Tensor, Tensor, float | Tensor]:
        """Logits, loss and share of this rank in a step, with the gradients left in the parameters."""
        # Dropout and its like draw from torch's own generator: seed it anew, so that no draw has a history.
        purpose = ("step", self.state.reached.epoch, step, self.fabric.global_rank)
        torch.manual_seed(derived_seed(self._seed, *purpose))
        logits, features = self.forward(batch.images, with_features=True)
        extra = (features,) if phase.stage.with_features else ()
        loss: Tensor = phase.stage.loss(logits, batch.labels, *extra)
        share = self._share(phase.stage.loss, batch)
        # DDP averages over ranks; a rank with a larger share of the batch has to count for more.
        self.fabric.backward(loss * (share * self.fabric.world_size))
        return logits, loss, share

    def _share(self, loss: nn.Module, batch: Batch) -> float | Tensor:
        """For how much of the mean over the global batch the mean of this rank's part counts."""
        if self.fabric.world_size == 1 or not isinstance(loss, WeightedMean):
            return len(batch.labels) / batch.global_size
        own = loss.divisor(batch.labels)
        total: Any = self.fabric.all_reduce(own.clone(), reduce_op="sum")
        share: Tensor = own / total
        return share
