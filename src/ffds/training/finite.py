"""A loss or gradient that is not finite: seen before the optimizer step, and explained."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffds.data.batches import Batch

__all__ = ["diagnosis", "is_finite"]


def is_finite(loss: Tensor, model: nn.Module, *, gradients: bool = True) -> bool:
    """Whether the loss and, if asked, every gradient of the model are finite.

    Args:
        loss: ().
        model: after the backward pass.
        gradients: False in half precision, where the loss scaler meets infinite gradients by design and
            skips those steps.
    """
    finite = loss.detach().isfinite()
    if gradients:
        found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        finite = finite & nn.utils.get_total_norm(found).isfinite()
    return bool(finite.item())


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
