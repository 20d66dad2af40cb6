"""Test-time augmentation: several views of each image, of whose probabilities the mean is taken."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ffds.data.transforms import EvalTransform, resample
from ffds.recipes.schema import Data

__all__ = ["VIEWS", "MeanOfViews", "TestTimeAugmentation", "ViewsTransform"]

TestTimeAugmentation = Literal["none", "flip", "crops"]
VIEWS: dict[TestTimeAugmentation, int] = {"none": 1, "flip": 2, "crops": 5}
"""How many views V of each image there are."""
SMALLER = 7 / 8
"""Side of a crop, as a part of the image's, where the recipe has no `data.eval_resize` to crop from."""


class ViewsTransform:
    """As `EvalTransform`, with the V views of a batch one behind the other.

    ``flip``: the image, then its mirror image. ``crops``: the centre and the four corners, squares of
    `data.image_size` in the image resized to `data.eval_resize`; without it, of 7/8 of the image, resized to
    the network's input.
    """

    def __init__(self, data: Data, augmentation: TestTimeAugmentation) -> None:
        self.data, self.augmentation = data, augmentation
        self.whole = EvalTransform(data)
        self.crop = EvalTransform(data.model_copy(update={"eval_resize": None}))

    def __call__(self, images: Tensor) -> Tensor:
        """Images uint8 (N, H, W, C) as float32 (V · N, C, h, w), channels-last."""
        if self.augmentation == "none":
            return self.whole(images)
        if self.augmentation == "flip":
            return torch.cat([self.whole(images), self.whole(images.flip(2))])
        return torch.cat([self.crop(one) for one in self._crops(images)])

    def _crops(self, images: Tensor) -> list[Tensor]:
        (height, width), side, data = images.shape[1:3], self.data.image_size, self.data
        if side is not None and data.eval_resize is not None:
            short = min(height, width)
            height, width = (int(data.eval_resize * length / short) for length in (height, width))
            images = resample(images, (height, width), data.interpolation)
            tall = wide = side
        else:
            tall, wide = round(SMALLER * height), round(SMALLER * width)
        low, right = height - tall, width - wide
        corners = [(low // 2, right // 2), (0, 0), (0, right), (low, 0), (low, right)]
        crops = [images[:, top : top + tall, left : left + wide] for top, left in corners]
        if side is None:
            return [resample(crop, (height, width), data.interpolation) for crop in crops]
        return crops


class MeanOfViews(nn.Module):
    """The logarithm of the mean probability of the V views of each image, (V · N, …) → (N, classes)."""

    def __init__(self, network: nn.Module, views: int) -> None:
        super().__init__()
        self.network, self.views = network, views

    def forward(self, images: Tensor) -> Tensor:
        """Logits whose softmax is the mean of the views' softmax."""
        logits: Tensor = self.network(images).float()
        return logits.softmax(1).view(self.views, -1, logits.shape[1]).mean(0).log()
