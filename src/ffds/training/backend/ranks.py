"""What the ranks of one training tell each other: flags, sums, means, and the tensors of each."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn

__all__ = ["any_rank", "average_buffers", "average_gradients", "gather_ranks", "sum_over_ranks"]


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
    """Replace the running statistics of each rank, which saw other images, by their mean over the ranks."""
    if fabric.world_size > 1:
        training = (module for module in model.modules() if module.training)
        for buffer in (one for module in training for one in module.buffers(recurse=False)):
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer.div_(fabric.world_size)


def average_gradients(fabric: Fabric, parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradients of parameters outside the network by their mean over the ranks.

    DistributedDataParallel does so for the network alone. A parameter that one rank did not use counts there
    with a gradient of zero.
    """
    if fabric.world_size > 1:
        for parameter in parameters:
            if parameter.requires_grad:
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                dist.all_reduce(gradient)
                parameter.grad = gradient.div_(fabric.world_size)


def gather_ranks(fabric: Fabric, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every rank's tensors on every rank, named ``rankR.NAME``."""
    if fabric.world_size == 1:
        return {f"rank0.{name}": tensor for name, tensor in tensors.items()}
    gathered: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        parts = [torch.empty_like(tensor) for _ in range(fabric.world_size)]
        dist.all_gather(parts, tensor)
        gathered |= {f"rank{rank}.{name}": part for rank, part in enumerate(parts)}
    return gathered
