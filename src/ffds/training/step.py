"""One training step: gradients, and the update where they are finite."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from ffds.data.dataset import Dataset
from ffds.data.loader import Batch, TrainBatches
from ffds.errors import InputError, NonFiniteLossError, one_line, printable
from ffds.files import write_json
from ffds.losses.base import WeightedMean
from ffds.recipes.schema import Recipe, Trainer
from ffds.seeding import derived_seed
from ffds.training.backend.cuda_graphs import CudaGraphs
from ffds.training.backend.ranks import average_gradients
from ffds.training.phases import Phase
from ffds.training.state import TrainingState

__all__ = ["NanGuard", "TrainStep", "diagnosis", "train_batches"]

NEVER = 2**62
MOST_NAMED = 3
"""Images that the message of a step that was not finite names."""


def train_batches(fabric: Fabric, recipe: Recipe, dataset: Dataset) -> TrainBatches:
    """The training batches of this rank."""
    return TrainBatches(
        dataset.drawn or dataset.train,
        recipe.data,
        total=len(dataset.train),
        batch_size=recipe.trainer.batch_size,
        seed=recipe.trainer.seed,
        device=fabric.device,
        num_classes=dataset.num_classes,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )


class Checked(NamedTuple):
    """Whether the optimizer takes a step, () bool, and the norm of the gradient of all parameters, ()."""

    taken: Tensor
    norm: Tensor


class NanGuard:
    """Finds the first step whose loss or gradient is not finite, without waiting for the device.

    The number of that step stays on the device. From that step on the optimizer, a fused one, which reads
    `found_inf` on the device, updates nothing. So the weights are still those before it when the host, which
    is some steps ahead, learns of it. In half precision infinite gradients are normal and the loss scaler
    skips their steps: gradients are not checked then.
    """

    def __init__(self, fabric: Fabric, optimizer: Optimizer, *, gradients: bool) -> None:
        self._parameters = [one for group in optimizer.param_groups for one in group["params"]]
        self._optimizer: Any = optimizer
        self._gradients, self._several_ranks = gradients, fabric.world_size > 1
        self._first = torch.full((), NEVER, device=fabric.device)
        on_host = fabric.device.type == "cpu"
        self._on_host = self._first if on_host else torch.full((), NEVER).pin_memory()

    def check(self, step: Tensor, loss: Tensor) -> Checked:
        """Check a step of this number, () int64, after its backward pass and before the optimizer."""
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        finite = loss.detach().isfinite()
        if self._gradients:
            finite = finite & norm.isfinite()
        self._first.copy_(torch.where(finite, self._first, torch.minimum(self._first, step)))
        if self._gradients:
            self._optimizer.found_inf = (self._first < NEVER).float()
        if self._on_host is not self._first:
            self._on_host.copy_(self._first, non_blocking=True)
        return Checked((self._first == NEVER) & norm.isfinite(), norm)

    def first_non_finite(self, *, wait: bool = False) -> int | None:
        """The first step that was not finite, None if the host knows of none.

        Unless it waits for the device and for all ranks, an accelerator's answer may be some steps old.
        """
        first = self._on_host
        if wait:
            first = self._first.clone()
            if self._several_ranks:
                dist.all_reduce(first, dist.ReduceOp.MIN)
        step = int(first.item())
        return None if step == NEVER else step


def diagnosis(
    batch: Batch,
    logits: Tensor,
    loss: Tensor,
    parameters: Mapping[str, nn.Parameter],
    class_names: Sequence[str],
    files: Sequence[Path] | None = None,
) -> dict[str, Any]:
    """What a person needs to find why a step was not finite, ready for JSON.

    The parameters have to be those before the step, with the step's gradients; the logits are (B, C).
    `samples` are places in the training set, whose `files`, if each image has its own, are named beside them.
    """
    per_sample = F.cross_entropy(logits.detach().float(), batch.target, reduction="none")
    images = batch.images.isfinite().flatten(1).all(dim=1)
    classes = sorted(set(batch.labels.tolist()))
    gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    found = {
        "loss": str(loss.item()),
        "samples": batch.indices.tolist(),
        "samples_not_finite": batch.indices[~per_sample.isfinite()].tolist(),
        "cross_entropy_per_class": {
            class_names[c]: str(per_sample[batch.labels == c].mean().item()) for c in classes
        },
        "images_not_finite": batch.indices[~images].tolist(),
        "parameters_not_finite": [name for name, p in parameters.items() if not p.isfinite().all()],
        "gradients_not_finite": [name for name, grad in gradients.items() if not grad.isfinite().all()],
    }
    if files is None:
        return found
    named = {
        place: printable(str(files[place])) if place < len(files) else "synthetic image"
        for place in found["samples"]
    }
    of = ("samples", "samples_not_finite", "images_not_finite")
    return found | {"files": {name: [named[place] for place in found[name]] for name in of}}


def _named_images(found: Mapping[str, Any]) -> str:
    """A line of the message that names the first images that are not finite, or whose outputs are not."""
    for key, what in (("images_not_finite", "images"), ("samples_not_finite", "outputs")):
        if count := len(found[key]):
            names = found["files"][key] if "files" in found else [f"sample {k}" for k in found[key]]
            more = ", …" if count > MOST_NAMED else ""
            first = ", ".join(map(one_line, names[:MOST_NAMED]))
            return f"\n  images:    {count} of {len(found['samples'])} {what} are not finite: {first}{more}"
    return ""


class TrainStep:
    """A step of the run, without waiting for the device."""

    def __init__(
        self, state: TrainingState, graphs: CudaGraphs, trainer: Trainer, batches: TrainBatches
    ) -> None:
        self.fabric, self.state, self.graphs = state.fabric, state, graphs
        self._seed, self._clip_norm, self._steps = trainer.seed, trainer.clip_norm, len(batches)
        self._part_rows = -(-batches.rows // trainer.accumulate)
        # bfloat16 and the CPU have no loss scaler, whatever the recipe says.
        self._scaled = bool(self.fabric.strategy.precision.state_dict())
        self.nan_guard = NanGuard(self.fabric, state.optimizer, gradients=not self._scaled)
        self._number = torch.zeros((), dtype=torch.int64, device=self.fabric.device)

    def __call__(self, phase: Phase, batch: Batch, *, observed: bool) -> None:
        """Take the step that the run has reached; where observed, gather p_y for a later loss."""
        reached, average = self.state.reached, self.state.average
        self._seed_step(reached.step)
        self._number.fill_(reached.step)
        if average is not None:
            average.start_step(reached.epoch * self._steps + reached.step + 1)
        # A CUDA graph contains the learning rate as a constant.
        state, mixed = self.state, batch.probabilities is not None
        key = ("step", phase.start, state.lr, state.trains, observed, mixed, batch.global_size)
        tensors = (batch.images, batch.labels, batch.probabilities)
        given = [tensor for tensor in tensors if tensor is not None]
        self.graphs(key, partial(self._take, phase, batch, observed), *given)

    def raise_not_finite(
        self, phase: Phase, batch: Batch, step: int, directory: Path, dataset: Dataset
    ) -> NoReturn:
        """Repeat a step that was not finite, and so updated no weight; write a diagnosis and raise.

        Raises:
            NonFiniteLossError: always; it names the file of the diagnosis, in `directory`, or contains the
            diagnosis where that cannot be written.
        """
        self._seed_step(step)
        logits, loss = self._gradients(phase, batch)
        epoch, name, lr = self.state.reached.epoch + 1, phase.stage.name, self.state.lr
        place = {"epoch": epoch, "step": step + 1, "phase": name, "lr": lr}
        rank = "" if self.fabric.is_global_zero else f"-rank{self.fabric.global_rank}"
        file = directory / f"diagnosis{rank}.json"
        known = dataset.class_names, dataset.train.files
        found, written = diagnosis(batch, logits, loss, self.state.parameters, *known), str(file)
        try:
            write_json(file, place | found)
        except InputError as error:  # the loss decides the exit code
            written = f"{error}; {json.dumps(place | found)}"
        what = f"loss or gradient is not finite in epoch {epoch}, step {step + 1} ({name}, lr {lr:g})"
        fix = 'a lower optimizer.lr, or trainer.precision="32"'
        images = _named_images(found)
        end = f"stopped before the optimizer step{images}\n  diagnosis: {written}\n  fix:       {fix}"
        raise NonFiniteLossError(f"{what}: {end}", file)

    def _take(
        self,
        phase: Phase,
        batch: Batch,
        observed: bool,
        images: Tensor,
        labels: Tensor,
        probabilities: Tensor | None = None,
    ) -> None:
        """The step itself, in a form that a CUDA graph can hold: nothing comes to the host."""
        batch = batch._replace(images=images, labels=labels, probabilities=probabilities)
        logits, loss = self._gradients(phase, batch)
        for parameter in self.state.frozen:
            parameter.grad = None
        if self._clip_norm is not None and self._scaled:
            precision: Any = self.fabric.strategy.precision
            precision.scaler.unscale_(self.state.optimizer)
        taken, norm = self.nan_guard.check(self._number, loss)
        if self._clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self.state.parameters.values(), self._clip_norm, norm)
        self.state.fabric_optimizer.step()
        self.state.fabric_optimizer.zero_grad()
        if self.state.average is not None:
            self.state.average.update(taken)
        if observed:
            self.state.observed.observe(logits, batch.target)
        self.state.accuracy.update(logits, batch.labels)
        self.state.loss_sum += loss * batch.global_size

    def _seed_step(self, step: int) -> None:
        # Dropout draws from torch's global generator: seeded in each step, it needs no saved state.
        purpose = ("step", self.state.reached.epoch, step, self.fabric.global_rank)
        torch.manual_seed(derived_seed(self._seed, *purpose))

    def _gradients(self, phase: Phase, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits, and what this rank adds to the mean loss, (); the gradients are left in the parameters.

        Of several views of each image these are the logits of the first one.
        """
        # A step whose capture failed may have left gradients.
        self.state.fabric_optimizer.zero_grad()
        forward: Any = self.state.forward
        parts = self._parts(batch)
        shares = self._shares(phase.stage.loss, batch, parts)
        logits, losses = [], []
        for number, (part, share) in enumerate(zip(parts, shares, strict=True), start=1):
            # DDP adds up the gradients of all parts and averages them over ranks in the last backward pass.
            with self.fabric.no_backward_sync(forward, enabled=number < len(parts)):
                outputs, features = self._forward(part.images)
                extra = (features,) if phase.stage.with_features else ()
                loss = phase.stage.loss(outputs, part.target, *extra)
                # A rank with a larger share of the batch has to count for more than in that average.
                self.fabric.backward(loss * (share * self.fabric.world_size))
            logits.append(outputs.detach())
            losses.append(loss.detach() * share)
        average_gradients(self.fabric, phase.stage.loss.parameters())
        return torch.cat(logits), torch.stack(losses).sum()

    def _forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, C) and features (B, D); of V views, the logits of the first and features (B, V, D)."""
        forward: Any = self.state.forward
        if images.ndim < 5:
            logits, features = forward(images, with_features=True)
            return logits, features
        views = images.shape[1]
        logits, features = forward(images.flatten(0, 1), with_features=True)
        return logits.unflatten(0, (-1, views))[:, 0], features.unflatten(0, (-1, views))

    def _parts(self, batch: Batch) -> list[Batch]:
        """Parts of this rank's rows of about equal size, each computed by itself; as many on every rank.

        A loss that sums over the ranks has to be called equally often on all.
        """
        fewest, ranks = batch.global_size // self.fabric.world_size, self.fabric.world_size
        number = min(-(-batch.global_size // ranks // self._part_rows), fewest)
        split = {
            name: value.tensor_split(number) if isinstance(value, Tensor) else [value] * number
            for name, value in batch._asdict().items()
        }
        return [Batch(**dict(zip(split, part, strict=True))) for part in zip(*split.values(), strict=True)]

    def _shares(self, loss: nn.Module, batch: Batch, parts: Sequence[Batch]) -> list[float | Tensor]:
        """Weight of each part's mean loss in the mean over the global batch."""
        whole = self.fabric.world_size == 1 and len(parts) == 1
        if whole or not isinstance(loss, WeightedMean):
            return [len(part.labels) / batch.global_size for part in parts]
        total: Any = self.fabric.all_reduce(loss.divisor(batch.target).clone(), reduce_op="sum")
        return [loss.divisor(part.target) / total for part in parts]
