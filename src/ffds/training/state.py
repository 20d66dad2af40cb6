"""Everything a run has to remember, in one place, so that all of it resumes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from ffds.errors import InputError
from ffds.evaluation.measures import ClassAccuracy
from ffds.losses.statistics import ClassProbabilities
from ffds.training.checkpoint import Checkpoint

__all__ = ["Reached", "TrainingState", "any_rank", "average_buffers", "gathered", "sum_over_ranks"]


def any_rank(fabric: Fabric, flag: bool) -> bool:
    """Whether the flag is set on any rank; the same answer on all."""
    if fabric.world_size == 1:
        return flag
    flags = torch.tensor(int(flag), device=fabric.device)
    dist.all_reduce(flags)
    return bool(flags.item())


def sum_over_ranks(fabric: Fabric, *tensors: Tensor) -> None:
    """Replace each tensor by its sum over the ranks, in place."""
    if fabric.world_size > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)


def average_buffers(fabric: Fabric, model: nn.Module) -> None:
    """Each rank saw other images: give all the mean of their running statistics."""
    if fabric.world_size > 1:
        for buffer in model.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer.div_(fabric.world_size)


def gathered(fabric: Fabric, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every rank's tensors on every rank, named ``rankR.NAME``."""
    if fabric.world_size == 1:
        return {f"rank0.{name}": tensor for name, tensor in tensors.items()}
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        parts = [torch.empty_like(tensor) for _ in range(fabric.world_size)]
        dist.all_gather(parts, tensor)
        found |= {f"rank{rank}.{name}": part for rank, part in enumerate(parts)}
    return found


@dataclass
class Reached:
    """The point a run has reached.

    Attributes:
        epoch: epochs done.
        step: steps done in the next one.
        seconds: time spent so far, evaluation included.
        train_seconds: time spent on training steps.
        images: images trained on.
        best_on_test: highest test accuracy of an epoch so far, in percent.
        best_epoch: the epoch that reached it, counted from 1.
    """

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    train_seconds: float = 0.0
    images: int = 0
    best_on_test: float | None = None
    best_epoch: int | None = None

    def consider(self, accuracy: float | None, epoch: int) -> None:
        """Keep the best test accuracy; one that is missing or NaN never becomes it."""
        if accuracy is not None and accuracy > (-1.0 if self.best_on_test is None else self.best_on_test):
            self.best_on_test, self.best_epoch = accuracy, epoch


@dataclass
class TrainingState:
    """Model, optimizer, losses and the running counts of the epoch.

    Attributes:
        fabric: launched.
        model: the network itself, neither wrapped nor compiled.
        optimizer: the optimizer of its parameters.
        losses: the loss of every phase.
        observed: p_y of the epoch, class by class, where a later loss starts from it.
        accuracy: training accuracy of the epoch.
        loss_sum: sum of the loss over the epoch's samples, ().
        reached: the point reached.
    """

    fabric: Fabric
    model: nn.Module
    optimizer: Optimizer
    losses: nn.ModuleList
    observed: ClassProbabilities
    accuracy: ClassAccuracy
    loss_sum: Tensor
    reached: Reached

    def checkpoint(self) -> Checkpoint:
        """The state as plain tensors and numbers; every rank must call it."""
        return Checkpoint(
            model=self.model.state_dict(),
            optimizer=self._optimizer_tensors(),
            loss=gathered(self.fabric, self._own_tensors()),
            state={
                "reached": asdict(self.reached),
                "world_size": self.fabric.world_size,
                "precision": self.fabric.strategy.precision.state_dict(),
            },
        )

    def restore(self, checkpoint: Checkpoint, phases: Collection[int] | None = None) -> None:
        """Go back to a checkpoint.

        Args:
            checkpoint: of this run, or of one with the same history.
            phases: places of the phases that share this history; the losses of the others stay as they are.
                None: all do.

        Raises:
            InputError: it was saved within an epoch by another number of processes, whose running counts
                have no place here.
        """
        self.reached = Reached(**checkpoint.state["reached"])
        if self.reached.step and checkpoint.state["world_size"] != self.fabric.world_size:
            raise InputError(
                "the run stopped within an epoch with another number of processes",
                got=self.fabric.world_size,
                allowed=checkpoint.state["world_size"],
                fix="go on with as many as before until the epoch ends",
            )
        self.model.load_state_dict(checkpoint.model)
        self._restore_optimizer(checkpoint.optimizer)
        # Between epochs all ranks are alike, so there may be another number of them.
        rank = self.fabric.global_rank if self.reached.step else 0
        for name, tensor in self._own_tensors(phases).items():
            tensor.copy_(checkpoint.loss[f"rank{rank}.{name}"])
        if checkpoint.state["precision"]:
            self.fabric.strategy.precision.load_state_dict(checkpoint.state["precision"])

    def sum_running(self) -> None:
        """Make the running counts those of all ranks."""
        sum_over_ranks(self.fabric, *self._running().values())

    def clear_running(self) -> None:
        """Begin to count a new epoch."""
        for tensor in self._running().values():
            tensor.zero_()

    def _running(self) -> dict[str, Tensor]:
        return {
            "epoch.correct": self.accuracy.correct,
            "epoch.total": self.accuracy.total,
            "epoch.loss_sum": self.loss_sum,
        }

    def _own_tensors(self, phases: Collection[int] | None = None) -> dict[str, Tensor]:
        losses = {
            f"{place}.{name}": tensor
            for place, loss in enumerate(self.losses)
            if phases is None or place in phases
            for name, tensor in loss.state_dict().items()
        }
        return losses | self.observed.state_dict(prefix="observed.") | self._running()

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        return {
            f"{name}.{key}": value
            for name, parameter in self.model.named_parameters()
            for key, value in self.optimizer.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }

    def _restore_optimizer(self, tensors: dict[str, Tensor]) -> None:
        parameters = dict(self.model.named_parameters())
        for full_name, tensor in tensors.items():
            name, key = full_name.rsplit(".", 1)
            # Channels-last or not decides which kernel updates a parameter, and so how it rounds.
            self.optimizer.state[parameters[name]][key] = torch.empty_like(parameters[name]).copy_(tensor)
