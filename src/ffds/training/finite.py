"""A loss or gradient that is not finite: seen before it does harm, and explained."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from ffds.data.batches import Batch

__all__ = ["FiniteWatch", "diagnosis"]

NEVER = 2**62


class FiniteWatch:
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

    def look(self, step: Tensor, loss: Tensor) -> None:
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

    def first_bad(self, *, wait: bool = False) -> int | None:
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
