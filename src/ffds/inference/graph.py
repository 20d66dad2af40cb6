"""A trained network as one graph to export, with its adjustment and, if asked for, its preprocessing."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn

from ffds.data.transforms import by_products
from ffds.environment import versions
from ffds.errors import InputError
from ffds.inference.predictor import Predictor

__all__ = ["INPUT", "OUTPUTS", "ExportedNetwork", "described", "example_images", "side_of"]

INPUT = "images"
OUTPUTS = ("logits", "probabilities")


class _Preprocessing(nn.Module):
    """Stored images uint8 (N, S, S, C) as `EvalTransform` gives them, by operations that export."""

    slope: Tensor
    offset: Tensor

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        data, channels = predictor.recipe.data, 1 if predictor.stored.mode == "L" else 3
        self.stored, self.side, self.interpolation = side_of(predictor), data.image_size, data.interpolation
        self.resized = data.eval_resize if data.image_size and data.eval_resize else data.image_size
        mean, std = (torch.tensor(values).expand(channels) for values in (data.mean, data.std))
        self.register_buffer("slope", (1 / (255 * std)).view(-1, 1, 1), persistent=False)
        self.register_buffer("offset", (-mean / std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Resized, cropped at the centre, normalised."""
        if self.resized is not None and self.resized != self.stored:
            whole = torch.tensor([[0, 0, self.stored, self.stored]])
            images = by_products(images, whole, (self.resized, self.resized), self.interpolation)
        side = self.side or self.stored
        start = round(((self.resized or self.stored) - side) / 2)
        images = images[:, start : start + side, start : start + side]
        return images.permute(0, 3, 1, 2).float() * self.slope + self.offset


class ExportedNetwork(nn.Module):
    """Images → (logits, probabilities), both float32 (N, classes), with the adjustment of the run in them.

    With `preprocess`, images are uint8 (N, S, S, C) of the stored size S, else float32 (N, C, h, w),
    normalised.
    """

    def __init__(self, predictor: Predictor, *, preprocess: bool) -> None:
        super().__init__()
        self.preprocessing: nn.Module = _Preprocessing(predictor) if preprocess else nn.Identity()
        self.network = predictor.scored

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and their softmax."""
        logits = self.network(self.preprocessing(images)).float()
        return logits, logits.softmax(1)


def side_of(predictor: Predictor) -> int:
    """The side S of the stored images.

    Raises:
        InputError: the run took its images as they are, in a size that is not known.
    """
    if predictor.stored.size is None:
        what = "the size of the images that the network was trained on is not known"
        fix = "a run of this version notes it: train again, or with data.image_size=S"
        raise InputError(what, where=predictor.run.path, fix=fix)
    return predictor.stored.size


def example_images(predictor: Predictor, count: int) -> Tensor:
    """Random stored images uint8 (N, S, S, C)."""
    side, channels = side_of(predictor), 1 if predictor.stored.mode == "L" else 3
    generator = torch.Generator().manual_seed(0)
    shape = (count, side, side, channels)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def described(predictor: Predictor, *, preprocess: bool) -> dict[str, str]:
    """What a user of the file has to know: class names, input, preprocessing, adjustment, origin."""
    data, stored = predictor.recipe.data, predictor.stored
    pixels = f"uint8 (N, {stored.size}, {stored.size}, C)"
    steps: dict[str, Any] = {
        "stored_size": stored.size,
        "mode": stored.mode,
        "fit": stored.fit,
        "eval_resize": data.eval_resize,
        "image_size": data.image_size,
        "interpolation": data.interpolation,
        "mean": list(data.mean),
        "std": list(data.std),
        "in_graph": preprocess,
    }
    adjustment = predictor.adjustment
    return {
        "class_names": json.dumps(predictor.class_names),
        "input": pixels if preprocess else "float32 (N, C, h, w), normalised",
        "preprocessing": json.dumps(steps),
        "adjustment": "none" if adjustment is None else str(adjustment),
        "config_hash": predictor.recipe.config_hash,
        "versions": json.dumps(versions()),
    }
