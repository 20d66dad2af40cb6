"""One training step: gradients, and the update where they are finite."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ffds.data.batches import Batch
from ffds.losses.reduction import WeightedMean
from ffds.methods import Phase
from ffds.randomness import derived_seed
from ffds.training.finite import FiniteWatch, diagnosis
from ffds.training.recorded import Recorder
from ffds.training.state import TrainingState

__all__ = ["TrainStep"]


class TrainStep:
    """A step of the run, without waiting for the device.

    Args:
        fabric: launched.
        forward: the network as Fabric set it up: images → logits and features.
        optimizer: of its parameters, as Fabric set it up.
        state: what the step changes.
        recorder: repeats steps on a GPU.
        seed: of the run.
        rows: of this rank in a whole batch. A last batch of another size goes through the network as it is:
            to compile it once more would take longer than all those batches do.
    """

    def __init__(
        self,
        fabric: Fabric,
        forward: nn.Module,
        optimizer: Any,
        state: TrainingState,
        recorder: Recorder,
        seed: int,
        *,
        rows: int,
    ) -> None:
        self.fabric, self.forward, self.optimizer, self.state = fabric, forward, optimizer, state
        self.recorder, self.rows = recorder, rows
        self._uncompiled = getattr(forward, "_orig_mod", forward)
        # bfloat16 and the CPU have no loss scaler, whatever the recipe says.
        scaled = bool(fabric.strategy.precision.state_dict())
        self.finite = FiniteWatch(fabric, state.model, state.optimizer, gradients=not scaled)
        self._seed = seed
        self._number = torch.zeros((), dtype=torch.int64, device=fabric.device)

    def __call__(self, phase: Phase, batch: Batch, *, observed: bool) -> None:
        """Take the step that the run has reached.

        Args:
            phase: of the epoch.
            batch: of the step.
            observed: whether p_y is gathered for a later loss.
        """
        self._seed_step(self.state.reached.step)
        self._number.fill_(self.state.reached.step)
        # A recorded update has its rate in it.
        lr = self.optimizer.param_groups[0]["lr"]
        key = ("step", phase.start, lr, observed, batch.global_size)
        self.recorder(key, partial(self._take, phase, batch, observed), batch.images, batch.labels)

    def diagnosis(self, phase: Phase, batch: Batch, step: int) -> dict[str, Any]:
        """Go back to a step that was not finite, and so updated no weight, and see what it met."""
        self._seed_step(step)
        logits, loss, _ = self._gradients(phase, batch)
        return diagnosis(batch, logits, loss, self.state.model)

    def _take(self, phase: Phase, batch: Batch, observed: bool, images: Tensor, labels: Tensor) -> None:
        """The step itself, which a recording can hold: no value comes to the host, no tensor is replaced."""
        batch = batch._replace(images=images, labels=labels)
        logits, loss, share = self._gradients(phase, batch)
        self.finite.look(self._number, loss)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if observed:
            self.state.observed.observe(logits.detach(), batch.labels)
        self.state.accuracy.update(logits.detach(), batch.labels)
        self.state.loss_sum += loss.detach() * share * batch.global_size

    def _seed_step(self, step: int) -> None:
        # Dropout and its like draw from torch's own generator: seed it anew, so that no draw has a history.
        purpose = ("step", self.state.reached.epoch, step, self.fabric.global_rank)
        torch.manual_seed(derived_seed(self._seed, *purpose))

    def _gradients(self, phase: Phase, batch: Batch) -> tuple[Tensor, Tensor, float | Tensor]:
        """Logits, loss and share of this rank in a step, with the gradients left in the parameters."""
        # None are left but by a step that could not be recorded to its end.
        self.optimizer.zero_grad()
        forward = self.forward if len(batch.labels) == self.rows else self._uncompiled
        logits, features = forward(batch.images, with_features=True)
        extra = (features,) if phase.stage.with_features else ()
        loss = phase.stage.loss(logits, batch.labels, *extra)
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
