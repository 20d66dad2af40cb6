"""Mixup and CutMix: each image of a batch together with another one, and the probabilities of both labels."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from torch import Tensor

from ffds.methods.base import Mix

__all__ = ["Mixing", "cutmix", "mixed_labels", "mixup"]


class Mixing:
    """How the images of one global batch are mixed; the seed decides it, the same on all ranks.

    λ comes from Beta(α, α). With mixup and CutMix, a batch takes one of them, each with probability ½.

    Each image is mixed with the one before it in the global batch, the first with the last; the order of the
    images is random, so any other image is as likely. With a `partner_power` r, each is mixed with one drawn
    for it from the training set, of class c with a probability ∝ n_c^(1 − r), and augmented by itself.

    Source: Zhang et al., "mixup: Beyond empirical risk minimization", ICLR 2018; Yun et al., "CutMix:
    Regularization strategy to train strong classifiers with localizable features", ICCV 2019; for drawn
    partners Park et al., "The majority can help the minority", CVPR 2022, algorithm 1.
    """

    def __init__(self, mix: Mix, seed: int) -> None:
        generator = np.random.default_rng(seed)
        first = generator.random() < 0.5
        self.pastes = not first if mix.mixup and mix.cutmix else mix.cutmix > 0
        alpha = mix.cutmix if self.pastes else mix.mixup
        self.share = float(generator.beta(alpha, alpha))
        """λ, the share of an image itself; of a pasted box it is the share before the box is cut off."""
        self.centre = tuple(generator.random(2).tolist())
        """Middle of the box, as fractions of height and width."""
        self.happens = bool(generator.random() < mix.probability)
        """Whether the batch is mixed at all."""

    @classmethod
    def of(cls, mix: Mix, seed: int) -> Self | None:
        """How the batch is mixed, None if it is not: that has the probability 1 − `mix.probability`."""
        mixing = cls(mix, seed)
        return mixing if mixing.happens else None

    def __call__(
        self, images: Tensor, others: Tensor, labels: Tensor, other_labels: Tensor, num_classes: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mix images (B, C, H, W) and labels (B,) with those of others, of the same shapes.

        Returns:
            The mixed images (B, C, H, W), of both labels (B,) the one with the larger share, and the
            probabilities (B, num_classes) of both.
        """
        share = self.share
        if self.pastes:
            mixed, share = cutmix(images, others, share, (self.centre[0], self.centre[1]))
        else:
            mixed = mixup(images, others, share)
        larger = labels if share >= 0.5 else other_labels
        return mixed, larger, mixed_labels(labels, other_labels, share, num_classes)


def mixup(images: Tensor, others: Tensor, share: float) -> Tensor:
    """λ·x + (1 − λ)·x′ of images x and others x′ (B, …), in the layout of the others.

    >>> mixup(torch.tensor([8.0]), torch.tensor([0.0]), 0.75).item()
    6.0
    """
    return others.mul(1 - share).add_(images, alpha=share)


def cutmix(images: Tensor, others: Tensor, share: float, centre: tuple[float, float]) -> tuple[Tensor, float]:
    """Images (B, C, H, W), each with a box of another one, and λ: the area of its own pixels.

    The box has the fraction √(1 − share) of both sides, its centre lies at a fraction of height and width,
    and what lies outside is cut off.
    """
    sides, half = images.shape[2:], 0.5 * (1 - share) ** 0.5
    spans = []
    for side, at in zip(sides, centre, strict=True):
        middle, reach = int(at * side), int(half * side)
        spans.append(slice(max(middle - reach, 0), min(middle + reach, side)))
    mixed = images.clone()
    mixed[:, :, spans[0], spans[1]] = others[:, :, spans[0], spans[1]]
    pasted = (spans[0].stop - spans[0].start) * (spans[1].stop - spans[1].start)
    return mixed, 1 - pasted / (sides[0] * sides[1])


def mixed_labels(labels: Tensor, others: Tensor, share: float, num_classes: int) -> Tensor:
    """Probabilities (B, num_classes): λ for the own label (B,), 1 − λ for the other one (B,).

    >>> mixed_labels(torch.tensor([0, 0]), torch.tensor([2, 0]), 0.75, 3)
    tensor([[0.7500, 0.0000, 0.2500],
            [1.0000, 0.0000, 0.0000]])
    """
    # torch's one_hot waits for the device, to check the labels.
    blank = torch.zeros(len(labels), num_classes, device=labels.device)
    own, other = (blank.scatter(1, label[:, None], 1.0) for label in (labels, others))
    return mixup(own, other, share)
