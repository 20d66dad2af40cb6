"""Which training images each epoch draws."""

from __future__ import annotations

from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ffds.methods.base import Sampler
from ffds.seeding import derived_seed

__all__ = ["Draws", "class_probabilities"]

ALL = -1
"""In place of the number of a class: all classes as one."""


def class_probabilities(counts: Tensor, sampler: Sampler, progress: float = 0.0) -> Tensor:
    """The probability with which a draw takes each class, for the samplers that draw a class by chance.

    p_c ∝ n_c^q, with q = 0 for ``class-balanced``, ½ for ``square-root``, and q itself where the sampler is a
    number. ``progressive`` moves from the shares of the classes to equal ones (Kang et al. 2020, equation 2),

        p_c(t) = (1 − t/T) n_c / Σ n + (t/T) / C.

    Args:
        counts: images n_c of each class (C,), none of them 0.
        sampler: how classes are drawn.
        progress: t/T, the epochs of the phase that are done as a fraction of all of them.

    >>> class_probabilities(torch.tensor([100, 25]), "square-root")
    tensor([0.6667, 0.3333], dtype=torch.float64)
    >>> class_probabilities(torch.tensor([75, 25]), "progressive", progress=0.5)
    tensor([0.6250, 0.3750], dtype=torch.float64)
    """
    shares = counts.double() / counts.sum()
    if sampler == "progressive":
        return (1 - progress) * shares + progress / len(counts)
    power = {"class-balanced": 0.0, "square-root": 0.5}.get(sampler) if isinstance(sampler, str) else sampler
    if power is None:
        raise ValueError(f"{sampler} draws no class by chance")
    return shares**power / (shares**power).sum()


class Draws:
    """The places of the images of an epoch, a function of the seed and the epoch alone.

    An epoch draws equally many images, whatever the sampler, so that steps, schedules and costs compare.
    ``instance-balanced`` takes every image once. ``over-sampling`` and ``under-sampling`` (Buda et al. 2018)
    draw every class equally often, to within one draw, also over several epochs: all images of a class come
    once, in random order, before any of them comes again. The first does so with all images, the second with
    as many images of each class as the rarest class has, chosen once at random. The others draw a class as
    `class_probabilities` says, then any of its images.

    Args:
        labels: int64 (N,); classes that have no image are never drawn.
        seed: of the draws.
        subset_seed: of the images that ``under-sampling`` keeps.
        total: images of an epoch, at most N; None for all. With fewer, ``instance-balanced`` goes through all
            images over several epochs before any comes again.
    """

    def __init__(
        self, labels: NDArray[np.int64], seed: int, *, subset_seed: int = 0, total: int | None = None
    ) -> None:
        self._rows = torch.from_numpy(np.argsort(labels, kind="stable"))
        self._counts = torch.from_numpy(np.unique(labels, return_counts=True)[1])
        self._seed, self._subset_seed = seed, subset_seed
        self._total = len(labels) if total is None else total

    def epoch(self, epoch: int, sampler: Sampler = "instance-balanced", progress: float = 0.0) -> Tensor:
        """Places of the images of an epoch in the order of training, int64 (N,) on the CPU."""
        total, counts = self._total, self._counts
        generator = self._generator("order", epoch)
        if sampler == "instance-balanced" and total < len(self._rows):
            return self._of_class(ALL, self._rows, epoch * total, (epoch + 1) * total)
        if sampler == "instance-balanced":
            return torch.randperm(total, generator=generator)
        if sampler in ("over-sampling", "under-sampling"):
            classes = self._classes if sampler == "over-sampling" else self._subsets
            return self._in_turn(epoch, classes)[torch.randperm(total, generator=generator)]
        if sampler == "class-balanced":
            drawn = torch.randint(len(counts), (total,), generator=generator)
        else:
            bounds = class_probabilities(counts, sampler, progress).cumsum(0)[:-1]
            draws = torch.rand(total, generator=generator, dtype=torch.float64)
            drawn = torch.searchsorted(bounds, draws, right=True)
        within = torch.rand(total, generator=generator, dtype=torch.float64) * counts[drawn]
        return self._rows[(counts.cumsum(0) - counts)[drawn] + within.long()]

    def _in_turn(self, epoch: int, classes: list[Tensor]) -> Tensor:
        """The draws of an epoch where draw i of all epochs takes class i mod C: class by class."""
        first, after = (self._total * number for number in (epoch, epoch + 1))
        return torch.cat(
            [
                self._of_class(k, rows, *(-((k - draw) // len(classes)) for draw in (first, after)))
                for k, rows in enumerate(classes)
            ]
        )

    def _of_class(self, k: int, rows: Tensor, start: int, stop: int) -> Tensor:
        """Draws `start` to before `stop` of class k: all its images in random order, again and again."""
        size = len(rows)
        rounds = range(start // size, -(-stop // size))
        orders = [torch.randperm(size, generator=self._generator("round", k, number)) for number in rounds]
        skipped = start - rounds.start * size
        return rows[torch.cat(orders)[skipped : skipped + stop - start]]

    @cached_property
    def _classes(self) -> list[Tensor]:
        """The images of each class."""
        ends = accumulate(self._counts.tolist(), initial=0)
        return [self._rows[start:end] for start, end in pairwise(ends)]

    @cached_property
    def _subsets(self) -> list[Tensor]:
        """As many images of each class as the rarest one has."""
        least, purpose = min(map(len, self._classes)), "under-sampling"
        seeds = [derived_seed(self._subset_seed, purpose, k) for k in range(len(self._classes))]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return [
            rows[torch.randperm(len(rows), generator=generator)[:least]]
            for rows, generator in zip(self._classes, generators, strict=True)
        ]

    def _generator(self, *purpose: str | int) -> torch.Generator:
        return torch.Generator().manual_seed(derived_seed(self._seed, *purpose))
