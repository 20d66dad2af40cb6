"""What several processes have to agree on."""

from __future__ import annotations

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn

__all__ = ["any_rank", "average_buffers", "gathered", "sum_over_ranks"]


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
