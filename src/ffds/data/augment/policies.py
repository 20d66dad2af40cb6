"""Draws for each image which operations change it: torchvision's policies, colour jitter, boxes to erase."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor

from ffds.data.augment.operations import NAMES
from ffds.recipes.schema import Data
from ffds.seeding import derived_seed

__all__ = ["draw_boxes", "draw_holes", "draw_operations"]

BINS, POLICY_BINS = 31, 10
DRAWN = NAMES.index("equalize") + 1
"""RandAugment and TrivialAugment draw from the operations up to this one."""
AREA, RATIO, TRIES = (0.02, 0.33), (0.3, 3.3), 10

Step = tuple[str, float, int]
"""An operation, its probability, and its magnitude from 0 to 9."""
CIFAR: tuple[tuple[Step, Step], ...] = (
    (("invert", 0.1, 0), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate-x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear-y", 0.5, 8), ("translate-y", 0.7, 9)),
    (("autocontrast", 0.5, 0), ("equalize", 0.9, 0)),
    (("shear-y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 0), ("equalize", 0.5, 0)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate-x", 0.5, 8)),
    (("equalize", 0.3, 0), ("autocontrast", 0.4, 0)),
    (("translate-y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 0)),
    (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
    (("equalize", 0.2, 0), ("equalize", 0.6, 0)),
    (("color", 0.9, 9), ("equalize", 0.6, 0)),
    (("autocontrast", 0.8, 0), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, 0)),
    (("translate-y", 0.9, 9), ("translate-y", 0.7, 9)),
    (("autocontrast", 0.9, 0), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 0), ("invert", 0.1, 0)),
    (("translate-y", 0.7, 9), ("autocontrast", 0.9, 0)),
)
"""Found on CIFAR-10 (Cubuk et al., CVPR 2019, Table 7 of the appendix)."""
IMAGENET: tuple[tuple[Step, Step], ...] = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 0), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 0)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 0)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 0), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 0)),
    (("equalize", 0.0, 0), ("equalize", 0.8, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 0)),
    (("shear-x", 0.6, 5), ("equalize", 1.0, 0)),
    (("color", 0.4, 0), ("equalize", 0.6, 0)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
)
"""Found on ImageNet (the same, Table 9)."""


def draw_operations(data: Data, seed: int, size: int, height: int, width: int) -> Tensor:
    """For each image of a global batch the operations and magnitudes of `data.augment`, float64 (S, size, 2).

    First one of the policies, then the four of colour jitter in random order, then grayscale. The policies
    have the operations, magnitudes and probabilities of torchvision's transforms of their names; one with a
    sign is negative with probability ½.
    """
    drawn = [torch.empty(0, size, 2, dtype=torch.float64)]
    generator = torch.Generator().manual_seed(derived_seed(seed, "policy"))
    if "randaugment" in data.augment:
        chosen = torch.randint(DRAWN, (data.randaugment_ops, size), generator=generator)
        table = _magnitudes(BINS, height, width)[:, data.randaugment_magnitude]
        drawn.append(_signed(chosen, table[chosen], generator))
    if "trivialaugment" in data.augment:
        chosen = torch.randint(DRAWN, (1, size), generator=generator)
        level = torch.randint(BINS, (1, size), generator=generator)
        drawn.append(_signed(chosen, _magnitudes(BINS, height, width, wide=True)[chosen, level], generator))
    for name, policy in (("autoaugment-cifar", CIFAR), ("autoaugment-imagenet", IMAGENET)):
        if name in data.augment:
            drawn.append(_of_policy(policy, _magnitudes(POLICY_BINS, height, width), size, generator))
    if "color-jitter" in data.augment:
        generator = torch.Generator().manual_seed(derived_seed(seed, "color-jitter"))
        jittered = _jitter(data.color_jitter, size, generator)
        happens = torch.rand(size, generator=generator) < data.color_jitter_probability
        drawn.append(jittered * happens[:, None])
    if "grayscale" in data.augment:
        generator = torch.Generator().manual_seed(derived_seed(seed, "grayscale"))
        happens = torch.rand(1, size, 1, generator=generator) < data.grayscale_probability
        drawn.append(torch.tensor([NAMES.index("color"), -1.0], dtype=torch.float64) * happens)
    return torch.cat(drawn)


def draw_holes(side: int, seed: int, size: int, height: int, width: int) -> Tensor:
    """For each image of a global batch the top, left, height and width of a square hole, int64 (size, 4).

    Its middle is any pixel, all alike, and what lies outside of the image is cut off (DeVries and Taylor,
    "Improved regularization of convolutional neural networks with cutout", 2017).
    """
    generator = torch.Generator().manual_seed(derived_seed(seed, "cutout"))
    shape = torch.tensor([height, width])
    middle = (torch.rand(size, 2, generator=generator, dtype=torch.float64) * shape).long()
    start = (middle - side // 2).clamp(min=0)
    end = (middle - side // 2 + side).clamp(max=shape)
    return torch.cat([start, end - start], dim=1)


def draw_boxes(probability: float, seed: int, size: int, height: int, width: int) -> Tensor:
    """For each image of a global batch the top, left, height and width to erase, int64 (size, 4); or all 0.

    As torchvision's ``RandomErasing``: 2 to 33 % of the area, aspect ratio 0.3 to 3.3, the first of ten
    tries that is smaller than the image, and nothing where none is.
    """
    generator = torch.Generator().manual_seed(derived_seed(seed, "random-erasing"))
    erased = torch.rand(size, 1, generator=generator) < probability
    draws = torch.rand(4, size, TRIES, generator=generator, dtype=torch.float64)
    area = height * width * (AREA[0] + (AREA[1] - AREA[0]) * draws[0])
    ratio = torch.exp(log(RATIO[0]) + log(RATIO[1] / RATIO[0]) * draws[1])
    tall, wide = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    top, left = (draws[2] * (height - tall + 1)).floor(), (draws[3] * (width - wide + 1)).floor()
    fits = (tall < height) & (wide < width)
    boxes = torch.stack([top, left, tall, wide], dim=-1) * fits[..., None]
    return boxes[torch.arange(size), fits.byte().argmax(dim=1)].long() * erased


def _magnitudes(bins: int, height: int, width: int, *, wide: bool = False) -> Tensor:
    """Magnitudes of each operation, float64 (operations, bins), from the weakest to the strongest."""
    shift = (32.0, 32.0) if wide else (150 / 331 * width, 150 / 331 * height)
    shear, angle, blend, bits = (0.99, 135.0, 0.99, 6) if wide else (0.3, 30.0, 0.9, 4)
    largest = {"shear-x": shear, "shear-y": shear, "translate-x": shift[0], "translate-y": shift[1]}
    largest |= {"rotate": angle} | dict.fromkeys(("brightness", "color", "contrast", "sharpness"), blend)
    table = dict.fromkeys(NAMES, torch.zeros(bins))
    table |= {name: torch.linspace(0, most, bins) for name, most in largest.items()}
    table |= {"posterize": (8 - torch.arange(bins) / ((bins - 1) / bits)).round()}
    table |= {"solarize": torch.linspace(1, 0, bins)}
    return torch.stack(list(table.values())).double()


def _signed(chosen: Tensor, magnitude: Tensor, generator: torch.Generator) -> Tensor:
    """Operations and magnitudes (S, B) as (S, B, 2), those with a sign negative with probability ½."""
    sign = 1 - 2 * torch.randint(2, chosen.shape, generator=generator)
    has_sign = (chosen >= NAMES.index("shear-x")) & (chosen <= NAMES.index("sharpness"))
    # Adding 0 makes one group of 0 and −0.
    return torch.stack([chosen, magnitude * torch.where(has_sign, sign, 1) + 0.0], dim=-1)


def _of_policy(
    policy: tuple[tuple[Step, Step], ...], table: Tensor, size: int, generator: torch.Generator
) -> Tensor:
    """One of the policy's pairs for each image; each operation of it happens with its own probability."""
    pairs = torch.tensor([[(NAMES.index(name), p, level) for name, p, level in pair] for pair in policy])
    pair = pairs[torch.randint(len(pairs), (size,), generator=generator)].transpose(0, 1)
    happens = torch.rand(2, size, generator=generator) <= pair[..., 1]
    chosen, level = pair[..., 0].long() * happens, pair[..., 2].long()
    return _signed(chosen, table[chosen, level], generator)


def _jitter(strength: tuple[float, float, float, float], size: int, generator: torch.Generator) -> Tensor:
    """Factors from [max(0, 1 − s), 1 + s], less 1, and a shift of the hue from [−s, s], in random order."""
    names = [NAMES.index(name) for name in ("brightness", "contrast", "color", "hue")]
    largest = torch.tensor(strength, dtype=torch.float64)
    smallest = torch.cat([-largest[:3].clamp(max=1), -largest[3:]])
    uniform = torch.rand(size, 4, generator=generator, dtype=torch.float64)
    magnitude = smallest + (largest - smallest) * uniform
    each = torch.stack([torch.tensor(names).expand(size, 4), magnitude], dim=-1)
    each[..., 0] *= largest > 0
    each[..., 1] *= largest > 0
    order = torch.rand(size, 4, generator=generator).argsort(dim=1)
    return each[torch.arange(size)[:, None], order].transpose(0, 1)
