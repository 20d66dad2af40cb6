"""Losses stay in float32 when the model around them is cast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["FullPrecision"]


class FullPrecision(nn.Module):
    """A module whose buffers are never cast below float32, whatever it is a part of.

    A sum over an epoch, or a class weight, does not survive ``model.to(torch.bfloat16)``; the logits do.

    >>> module = FullPrecision()
    >>> module.register_buffer("sums", torch.zeros(1))
    >>> module.to(torch.bfloat16).sums.dtype
    torch.float32
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def kept(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype in (torch.float16, torch.bfloat16) else moved

        return super()._apply(kept, recurse)  # type: ignore[no-untyped-call]
