"""Operations on the pixels of whole batches, by torchvision's own functions: colour, shape, erasing."""

from __future__ import annotations

from collections.abc import Callable
from math import atan, degrees

import torch
import torchvision.transforms.v2.functional as tvf
from torch import Tensor

__all__ = ["NAMES", "OPERATIONS", "apply", "cut_out", "erase"]


def _translate(images: Tensor, x: float, y: float) -> Tensor:
    """Moved by whole pixels; what comes in is black."""
    moved: Tensor = tvf.affine(images, 0.0, [int(x), int(y)], 1.0, [0.0, 0.0])
    return moved


def _shear(images: Tensor, x: float, y: float) -> Tensor:
    """Sheared about the first corner; what comes in is black."""
    angles = [degrees(atan(x)), degrees(atan(y))]
    sheared: Tensor = tvf.affine(images, 0.0, [0, 0], 1.0, angles, center=[0.0, 0.0])
    return sheared


Change = Callable[[Tensor, float], Tensor]
OPERATIONS: dict[str, Change] = {
    "identity": lambda images, _: images,
    "shear-x": lambda images, m: _shear(images, m, 0),
    "shear-y": lambda images, m: _shear(images, 0, m),
    "translate-x": lambda images, m: _translate(images, m, 0),
    "translate-y": lambda images, m: _translate(images, 0, m),
    "rotate": tvf.rotate,
    "brightness": lambda images, m: tvf.adjust_brightness(images, 1 + m),
    "color": lambda images, m: tvf.adjust_saturation(images, 1 + m),
    "contrast": lambda images, m: tvf.adjust_contrast(images, 1 + m),
    "sharpness": lambda images, m: tvf.adjust_sharpness(images, 1 + m),
    "posterize": lambda images, m: tvf.posterize(images, int(m)),
    "solarize": lambda images, m: tvf.solarize(images, 255 * m),
    "autocontrast": lambda images, _: tvf.autocontrast(images),
    "equalize": lambda images, _: tvf.equalize(images),
    "invert": lambda images, _: tvf.invert(images),
    "hue": tvf.adjust_hue,
}
"""Each on images uint8 (B, C, H, W), C = 1 or 3, with one magnitude for all."""
NAMES = list(OPERATIONS)


def apply(images: Tensor, drawn: Tensor) -> Tensor:
    """Images uint8 (B, C, H, W), changed by `drawn` (S, B, 2) on the CPU: S times (operation, magnitude).

    On the images' device; the host does not wait for it.
    """
    for step in drawn.tolist():
        rows: dict[tuple[float, float], list[int]] = {}
        for row, (operation, magnitude) in enumerate(step):
            rows.setdefault((operation, magnitude), []).append(row)
        order = torch.tensor([row for group in rows.values() for row in group])
        groups = images.index_select(0, order.to(images.device, non_blocking=True))
        start = 0
        for (operation, magnitude), group in rows.items():
            part = slice(start, start := start + len(group))
            groups[part] = OPERATIONS[NAMES[int(operation)]](groups[part], magnitude)
        images = groups.index_select(0, order.argsort().to(images.device, non_blocking=True))
    return images


def cut_out(images: Tensor, boxes: Tensor) -> Tensor:
    """Images uint8 (B, C, H, W), black inside the box (4,) of each; `boxes` (B, 4) lie on the CPU."""
    top, left, tall, wide = boxes.to(images.device, non_blocking=True)[:, :, None].unbind(1)
    row, column = (torch.arange(side, device=images.device) for side in images.shape[2:])
    rows, columns = (row >= top) & (row < top + tall), (column >= left) & (column < left + wide)
    return images.masked_fill((rows[:, :, None] & columns[:, None])[:, None], 0)


def erase(images: Tensor, boxes: Tensor) -> Tensor:
    """Set the box (4,) of each image float (B, C, H, W) to 0, in place; `boxes` (B, 4) lie on the CPU."""
    for image, (top, left, tall, wide) in zip(images, boxes.tolist(), strict=True):
        image[:, top : top + tall, left : left + wide] = 0
    return images
