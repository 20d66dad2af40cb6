"""Antialiased bilinear resampling of boxes of images, each image with its own box, as two matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["resample", "triangle_weights"]


def triangle_weights(start: Tensor, length: Tensor, in_size: int, out_size: int) -> Tensor:
    """Weights that resample `length` pixels from `start` on to `out_size` pixels.

    With s = length / out_size, output pixel i looks at c_i = start + s (i + ½) and takes input pixel j with

        w_ij ∝ max(0, 1 − |j + ½ − c_i| / max(s, 1)),   start ≤ j < start + length,   Σ_j w_ij = 1,

    which is ``torch.nn.functional.interpolate(mode="bilinear", antialias=True)`` of the box along one axis.

    Args:
        start: first pixel of each box, int64 (B,).
        length: pixels of each box, int64 (B,), at least 1.
        in_size: pixels of the whole image along this axis.
        out_size: pixels wanted.

    Returns:
        float32 (B, out_size, in_size); each row sums to 1.

    >>> triangle_weights(torch.tensor([0]), torch.tensor([4]), 4, 2)[0, 0]
    tensor([0.4286, 0.4286, 0.1429, 0.0000])
    """
    start, length = start[:, None, None], length[:, None, None]
    scale = length / out_size
    centre = scale * (torch.arange(out_size, device=start.device)[:, None] + 0.5)
    pixel = torch.arange(in_size, device=start.device) - start
    weights = (1 - (pixel + 0.5 - centre).abs() / scale.clamp(min=1)).clamp(min=0)
    weights = weights * ((pixel >= 0) & (pixel < length))
    return weights / weights.sum(-1, keepdim=True)


def resample(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Σ_ij rows[b, y, i] · columns[b, x, j] · images[b, i, j, c].

    Args:
        images: (B, H, W, C), any number type.
        rows: weights (B or 1, h, H).
        columns: weights (B or 1, w, W).

    Returns:
        float32 (B, h, w, C), contiguous, on the scale of `images`.
    """
    batch, height, width, channels = images.shape
    out_width = columns.shape[1]
    lines = images.float().transpose(2, 3).reshape(batch, height * channels, width)
    narrowed = (lines @ columns.transpose(1, 2)).view(batch, height, channels, out_width)
    stacked = narrowed.transpose(2, 3).reshape(batch, height, out_width * channels)
    return (rows @ stacked).view(batch, -1, out_width, channels)
