"""Mixup and CutMix: each image of a batch together with another one, and the probabilities of both labels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ffds.recipes.schema import Data

__all__ = ["Mixing", "cutmix", "mixed_labels", "mixup"]


class Mixing:
    """How the images of one global batch are mixed; the seed decides it, the same on all ranks.

    λ comes from Beta(α, α). With `data.mixup` and `data.cutmix` both above 0, a batch takes one of them, each
    with probability ½. Image i is mixed with the one before it in the global batch, the first with the last;
    the order of the images is random, so any other image is as likely. A rank needs one image of another one.

    Source: Zhang et al., "mixup: Beyond empirical risk minimization", ICLR 2018; Yun et al., "CutMix:
    Regularization strategy to train strong classifiers with localizable features", ICCV 2019.
    """

    def __init__(self, data: Data, seed: int) -> None:
        generator = np.random.default_rng(seed)
        first = generator.random() < 0.5
        self.pastes = not first if data.mixup and data.cutmix else data.cutmix > 0
        alpha = data.cutmix if self.pastes else data.mixup
        self.share = float(generator.beta(alpha, alpha))
        """λ, the share of an image itself; of a pasted box it is the share before the box is cut off."""
        self.centre = tuple(generator.random(2).tolist())
        """Middle of the box, as fractions of height and width."""

    def __call__(self, images: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
        """Mix images (B + 1, C, H, W) with labels (B + 1,); row 0 is there only as the partner of row 1.

        Returns:
            The mixed images (B, C, H, W), of both labels (B,) the one with the larger share, and the
            probabilities (B, num_classes) of both.
        """
        share = self.share
        if self.pastes:
            mixed, share = cutmix(images, share, (self.centre[0], self.centre[1]))
        else:
            mixed = mixup(images, share)
        larger = labels[1:] if share >= 0.5 else labels[:-1]
        return mixed, larger, mixed_labels(labels, share, num_classes)


def mixup(images: Tensor, share: float) -> Tensor:
    """λ·x_i + (1 − λ)·x_(i−1) for i ≥ 1, of images (B + 1, C, H, W), in their layout.

    >>> mixup(torch.tensor([0.0, 8.0]).view(2, 1, 1, 1), 0.75).item()
    6.0
    """
    return images[:-1].mul(1 - share).add_(images[1:], alpha=share)


def cutmix(images: Tensor, share: float, centre: tuple[float, float]) -> tuple[Tensor, float]:
    """Each image i ≥ 1 of (B + 1, C, H, W) with a box of image i − 1, and λ: the area of its own pixels.

    The box has the fraction √(1 − share) of both sides, its centre lies at a fraction of height and width,
    and what lies outside is cut off.
    """
    sides, half = images.shape[2:], 0.5 * (1 - share) ** 0.5
    spans = []
    for side, at in zip(sides, centre, strict=True):
        middle, reach = int(at * side), int(half * side)
        spans.append(slice(max(middle - reach, 0), min(middle + reach, side)))
    mixed = images[1:].clone()
    mixed[:, :, spans[0], spans[1]] = images[:-1, :, spans[0], spans[1]]
    pasted = (spans[0].stop - spans[0].start) * (spans[1].stop - spans[1].start)
    return mixed, 1 - pasted / (sides[0] * sides[1])


def mixed_labels(labels: Tensor, share: float, num_classes: int) -> Tensor:
    """Probabilities (B, num_classes) of labels (B + 1,): λ for the own label, 1 − λ for that before it.

    >>> mixed_labels(torch.tensor([2, 0, 0]), 0.75, 3)
    tensor([[0.7500, 0.0000, 0.2500],
            [1.0000, 0.0000, 0.0000]])
    """
    # torch's one_hot waits for the device, to check the labels.
    one_hot = torch.zeros(len(labels), num_classes, device=labels.device).scatter_(1, labels[:, None], 1.0)
    return mixup(one_hot, share)
