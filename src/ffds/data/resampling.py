"""Antialiased bilinear resampling of uint8 images, of a box of its own in each, as torchvision does it.

On the CPU torch has a kernel for one box in many images; elsewhere all boxes are two matrix products.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["by_products", "resample", "resample_boxes", "triangle_weights"]


def resample(images: Tensor, size: tuple[int, int]) -> Tensor:
    """All of each image at another size, as torchvision's ``resize(antialias=True)`` of uint8 tensors.

    Args:
        images: uint8 (B, H, W, C).
        size: (h, w) wanted.

    Returns:
        uint8 (B, h, w, C).

    >>> resample(torch.tensor([0, 8, 16, 24], dtype=torch.uint8).view(1, 1, 4, 1), (1, 2)).flatten()
    tensor([ 6, 18], dtype=torch.uint8)
    """
    if images.device.type == "cpu":
        return _interpolated(images, size)
    height, width = images.shape[1:3]
    whole = torch.tensor([[0, 0, height, width]]).to(images.device, non_blocking=True)
    return by_products(images, whole, size)


def resample_boxes(images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """A box of each image at one size, as torchvision's ``resized_crop`` does it with one image.

    Args:
        images: uint8 (B, H, W, C).
        boxes: int64 (B, 4), top, left, height and width of each.
        size: (h, w) wanted.

    Returns:
        uint8 (B, h, w, C).
    """
    if images.device.type != "cpu":
        return by_products(images, boxes, size)
    return torch.cat(
        [
            _interpolated(image[None, top : top + tall, left : left + wide], size)
            for image, (top, left, tall, wide) in zip(images, boxes.tolist(), strict=True)
        ]
    )


def by_products(images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """As `resample_boxes` on any device, with no loop; rounded after each axis, as there.

    A pixel may differ by one, rarely two, where the exact value is the middle of two: torch's kernel has
    weights of 16 bits.

    Args:
        images: uint8 (B, H, W, C).
        boxes: int64 (B, 4); (1, 4): one for all.
        size: (h, w) wanted.
    """
    batch, height, width, channels = images.shape
    top, left, tall, wide = boxes.unbind(1)
    columns = triangle_weights(left, wide, width, size[1])
    lines = images.float().transpose(2, 3).reshape(batch, height * channels, width)
    narrowed = (lines @ columns.transpose(1, 2)).add_(0.5).floor_().view(batch, height, channels, size[1])
    stacked = narrowed.transpose(2, 3).reshape(batch, height, size[1] * channels)
    found = triangle_weights(top, tall, height, size[0]) @ stacked
    return found.add_(0.5).to(torch.uint8).view(batch, *size, channels)


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


def _interpolated(images: Tensor, size: tuple[int, int]) -> Tensor:
    found = F.interpolate(images.permute(0, 3, 1, 2), size, mode="bilinear", antialias=True)
    return found.permute(0, 2, 3, 1)
