"""One training step: gradients, and the update where they are finite."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from ffds.data.loader import Batch
from ffds.losses.reduction import WeightedMean
from ffds.seeding import derived_seed
from ffds.training.backend.cuda_graphs import CudaGraphs
from ffds.training.phases import Phase
from ffds.training.state import TrainingState

__all__ = ["NanGuard", "TrainStep", "diagnosis"]

NEVER = 2**62


class NanGuard:
    """The first step whose loss or gradient is not finite, found without waiting for the device.

    The number of that step stays on the device. From there on the optimizer updates nothing, so that the
    weights are still those before it when the host, some steps ahead, comes to know.

    Args:
        fabric: launched.
        model: whose gradients are watched.
        optimizer: of its parameters, fused: it then asks `found_inf` on the device.
        gradients: False in half precision, where the loss scaler meets infinite gradients by design and
            skips those steps itself.
    """

    def __init__(self, fabric: Fabric, model: nn.Module, optimizer: Optimizer, *, gradients: bool) -> None:
        self._parameters = list(model.parameters())
        self._optimizer: Any = optimizer
        self._gradients, self._several_ranks = gradients, fabric.world_size > 1
        self._first = torch.full((), NEVER, device=fabric.device)
        on_host = fabric.device.type == "cpu"
        self._seen = self._first if on_host else torch.full((), NEVER).pin_memory()

    def check(self, step: Tensor, loss: Tensor) -> None:
        """Watch one step, after its backward pass and before the optimizer.

        Args:
            step: its number within the epoch, () int64.
            loss: ().
        """
        finite = loss.detach().isfinite()
        if self._gradients:
            found = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
            finite = finite & nn.utils.get_total_norm(found).isfinite()
        self._first.copy_(torch.where(finite, self._first, torch.minimum(self._first, step)))
        if self._gradients:
            self._optimizer.found_inf = (self._first < NEVER).float()
        if self._seen is not self._first:
            self._seen.copy_(self._first, non_blocking=True)

    def first_non_finite(self, *, wait: bool = False) -> int | None:
        """The first step that was not finite, None if there is none that the host knows of.

        Args:
            wait: for the device, and among several ranks for their agreement; without it an accelerator may
                be some steps behind.
        """
        found = self._seen
        if wait:
            found = self._first.clone()
            if self._several_ranks:
                dist.all_reduce(found, dist.ReduceOp.MIN)
        step = int(found.item())
        return None if step == NEVER else step


def diagnosis(batch: Batch, logits: Tensor, loss: Tensor, model: nn.Module) -> dict[str, Any]:
    """What a person needs to find the cause, ready for JSON.

    Args:
        batch: the batch of the step.
        logits: (B, C).
        loss: ().
        model: as it is before the step.
    """
    per_sample = F.cross_entropy(logits.detach().float(), batch.labels, reduction="none")
    classes = sorted(set(batch.labels.tolist()))
    return {
        "loss": str(loss.item()),
        "samples": batch.indices.tolist(),
        "samples_not_finite": batch.indices[~per_sample.isfinite()].tolist(),
        "cross_entropy_per_class": {
            str(c): str(per_sample[batch.labels == c].mean().item()) for c in classes
        },
        "images_not_finite": batch.indices[~batch.images.isfinite().flatten(1).all(dim=1)].tolist(),
        "parameters_not_finite": [name for name, p in model.named_parameters() if not p.isfinite().all()],
        "gradients_not_finite": [
            name for name, p in model.named_parameters() if p.grad is not None and not _finite(p.grad)
        ],
    }


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


class TrainStep:
    """A step of the run, without waiting for the device.

    Args:
        fabric: launched.
        forward: the network as Fabric set it up: images → logits and features.
        optimizer: of its parameters, as Fabric set it up.
        state: what the step changes.
        graphs: repeats steps on a GPU.
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
        graphs: CudaGraphs,
        seed: int,
        *,
        rows: int,
    ) -> None:
        self.fabric, self.forward, self.optimizer, self.state = fabric, forward, optimizer, state
        self.graphs, self.rows = graphs, rows
        self._uncompiled = getattr(forward, "_orig_mod", forward)
        # bfloat16 and the CPU have no loss scaler, whatever the recipe says.
        scaled = bool(fabric.strategy.precision.state_dict())
        self.nan_guard = NanGuard(fabric, state.model, state.optimizer, gradients=not scaled)
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
        self.graphs(key, partial(self._take, phase, batch, observed), batch.images, batch.labels)

    def diagnosis(self, phase: Phase, batch: Batch, step: int) -> dict[str, Any]:
        """Go back to a step that was not finite, and so updated no weight, and see what it met."""
        self._seed_step(step)
        logits, loss, _ = self._gradients(phase, batch)
        return diagnosis(batch, logits, loss, self.state.model)

    def _take(self, phase: Phase, batch: Batch, observed: bool, images: Tensor, labels: Tensor) -> None:
        """The step itself, which a graph can hold: no value comes to the host, no tensor is replaced."""
        batch = batch._replace(images=images, labels=labels)
        logits, loss, share = self._gradients(phase, batch)
        self.nan_guard.check(self._number, loss)
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
