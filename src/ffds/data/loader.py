"""Makes training and evaluation batches from a split, on the training device."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ffds.data.dataset import Split
from ffds.data.streaming import StreamedImages
from ffds.data.transforms import EvalTransform, TrainTransform
from ffds.errors import InputError
from ffds.methods.base import Sampler
from ffds.recipes.schema import Data
from ffds.seeding import derived_seed

__all__ = ["Batch", "DeviceImages", "EvalBatches", "HostImages", "TrainBatches", "fits", "images_for"]

MAX_MEMORY_FRACTION = 1 / 2
"""Images that take more of an accelerator's free memory than this would leave too little for the network."""


class Batch(NamedTuple):
    """One rank's part of a global batch, on the training device.

    Attributes:
        images: float32 (B, C, h, w), channels-last.
        labels: int64 (B,).
        indices: int64 (B,), places in the split.
        global_size: rows of the global batch over all ranks; equals B on one rank.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    global_size: int


class TrainBatches:
    """Epochs of augmented training batches; an epoch draws as many images as the split has.

    Instance-balanced, every image comes once. Class-balanced, each draw takes a class, all with the same
    probability, then one of its images: a rare class comes as often as a frequent one, its images many times
    (Kang et al. 2020).

    Images, order and augmentation depend on the seed, epoch and step only: not on the device, the number of
    ranks, the steps before, where the images are kept, or any global generator. Together, in rank order, the
    ranks get the batch that one rank would get alone; their parts differ by at most one row.

    Where the batch size does not divide the number of images, a rest of fewer than 2 · world_size rows joins
    the batch before it: batch norm needs two rows. A batch size above the number of images gives one batch.

    Args:
        split: the images.
        data: the recipe's section with the augmentation.
        batch_size: rows of a global batch, over all ranks; at least `world_size`.
        seed: of the run.
        device: where the batches are made.
        rank: of this process, below `world_size`.
        world_size: number of processes.

    Attributes:
        rows: of this rank in the first batch of an epoch, and in all others but the last.

    Raises:
        InputError: a rank would get no row: too few images, or a batch smaller than the number of ranks.
    """

    def __init__(
        self,
        split: Split,
        data: Data,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if min(batch_size, len(split)) < world_size:
            raise InputError(
                "a rank would get no training image",
                got=f"{len(split)} images in batches of {batch_size} for {world_size} ranks",
                allowed=f"at least {world_size} of each",
                fix="use fewer devices or a larger trainer.batch_size",
            )
        self._images, self._labels = images_for(device, split.images), _labels_on(device, split)
        self._transform = TrainTransform(data)
        self._bounds = _train_bounds(len(split), batch_size, world_size)
        share = _share(self._bounds[1], rank, world_size)
        self.rows = share.stop - share.start
        self._rows_of_class = torch.from_numpy(np.argsort(split.labels, kind="stable"))
        self._class_counts = torch.from_numpy(np.unique(split.labels, return_counts=True)[1])
        self._seed, self._rank, self._world_size = seed, rank, world_size

    def __len__(self) -> int:
        """Steps of an epoch."""
        return len(self._bounds) - 1

    def epoch(
        self, epoch: int, start_step: int = 0, sampler: Sampler = "instance-balanced"
    ) -> Iterator[Batch]:
        """The batches of one epoch.

        Args:
            epoch: number of the epoch; decides order and augmentation.
            start_step: first step, where the ones before it are done already.
            sampler: which images are drawn.
        """
        steps = range(start_step, len(self))
        sizes = [self._bounds[step + 1] - self._bounds[step] for step in steps]
        shares = [_share(size, self._rank, self._world_size) for size in sizes]
        parts = [_shifted(share, self._bounds[step]) for step, share in zip(steps, shares, strict=True)]
        stored = self._images.batches(self._drawn(epoch, sampler), parts)
        for step, size, rows, (images, indices) in zip(steps, sizes, shares, stored, strict=True):
            seed = derived_seed(self._seed, "augment", epoch, step)
            with self._images.preparing():
                augmented = self._transform(images, seed, rows=rows, global_size=size)
            yield Batch(augmented, self._labels.index_select(0, indices), indices, size)

    def _drawn(self, epoch: int, sampler: Sampler) -> Tensor:
        """Places of the images of an epoch, those of all ranks, int64 (N,) on the CPU."""
        generator = torch.Generator().manual_seed(derived_seed(self._seed, "order", epoch))
        total, counts = len(self._labels), self._class_counts
        if sampler == "instance-balanced":
            return torch.randperm(total, generator=generator)
        drawn = torch.randint(len(counts), (total,), generator=generator)
        within = torch.rand(total, generator=generator, dtype=torch.float64) * counts[drawn]
        return self._rows_of_class[(counts.cumsum(0) - counts)[drawn] + within.long()]


class EvalBatches:
    """Every image of a split once over all ranks, in order, without chance.

    Each global batch is divided among the ranks, the first ones taking the odd rows; a rank with no row skips
    the batch, so it may have fewer batches than the others, or none.

    Args:
        split: the images.
        data: the recipe's section with image size and normalisation.
        batch_size: rows of a global batch, over all ranks.
        device: where the batches are made.
        rank: of this process, below `world_size`.
        world_size: number of processes.
    """

    def __init__(
        self,
        split: Split,
        data: Data,
        *,
        batch_size: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._images, self._labels = images_for(device, split.images), _labels_on(device, split)
        self._transform = EvalTransform(data)
        self._batch_size, self._rank, self._world_size = batch_size, rank, world_size

    def __iter__(self) -> Iterator[Batch]:
        """This rank's batches."""
        total = len(self._labels)
        sizes, parts = [], []
        for start in range(0, total, self._batch_size):
            size = min(self._batch_size, total - start)
            share = _share(size, self._rank, self._world_size)
            if share.start < share.stop:
                sizes.append(size)
                parts.append(_shifted(share, start))
        stored = self._images.batches(torch.arange(total), parts)
        for size, part, (images, indices) in zip(sizes, parts, stored, strict=True):
            with self._images.preparing():
                prepared = self._transform(images)
            yield Batch(prepared, self._labels[part], indices, size)


class DeviceImages:
    """Images that lie on the device from the start.

    Args:
        images: uint8 (N, H, W, C).
        device: where they shall be.
    """

    def __init__(self, images: NDArray[np.uint8], device: torch.device) -> None:
        self._images = torch.from_numpy(np.require(images, requirements=("C", "W"))).to(device)

    def batches(self, order: Tensor, parts: Sequence[slice]) -> Iterator[tuple[Tensor, Tensor]]:
        """The images of one batch after the other.

        Args:
            order: int64 (N,), places of the images, on the CPU.
            parts: which of `order` each batch takes.

        Yields:
            Images uint8 (B, H, W, C) and their places int64 (B,), on the device.
        """
        placed = order.to(self._images.device)
        for part in parts:
            yield self._images.index_select(0, placed[part]), placed[part]

    def preparing(self) -> AbstractContextManager[None]:
        """Entered while a batch is augmented."""
        return nullcontext()


class HostImages:
    """Images in memory or in their files, of which each batch is copied to the device when it is due.

    Args:
        images: in their files, or in memory as uint8 (N, H, W, C).
        device: where each batch shall be.
    """

    def __init__(self, images: NDArray[np.uint8] | StreamedImages, device: torch.device) -> None:
        self._images, self._device = images, device

    def batches(self, order: Tensor, parts: Sequence[slice]) -> Iterator[tuple[Tensor, Tensor]]:
        """As `DeviceImages.batches`; the host does not wait for the copies."""
        placed, rows = order.to(self._device), order.numpy()
        filled: deque[Tensor] = deque()

        def empty(size: int) -> NDArray[np.uint8]:
            shape = (size, *self._images.shape[1:])
            filled.append(torch.empty(shape, dtype=torch.uint8, pin_memory=self._device.type == "cuda"))
            array: NDArray[np.uint8] = filled[-1].numpy()
            return array

        read = self._images.batches if isinstance(self._images, StreamedImages) else self._gathered
        for part, _ in zip(parts, read([rows[part] for part in parts], empty), strict=True):
            yield filled.popleft().to(self._device, non_blocking=True), placed[part]

    def preparing(self) -> AbstractContextManager[None]:
        """As `DeviceImages.preparing`: on the CPU, workers leave a core to one thread only."""
        beside_workers = isinstance(self._images, StreamedImages) and self._device.type == "cpu"
        return _one_thread() if beside_workers else nullcontext()

    def _gathered(
        self, batches: Sequence[NDArray[np.int64]], empty: Callable[[int], NDArray[np.uint8]]
    ) -> Iterator[NDArray[np.uint8]]:
        for rows in batches:
            images = empty(len(rows))
            images[:] = self._images[rows]
            yield images


def images_for(device: torch.device, images: NDArray[np.uint8] | StreamedImages) -> DeviceImages | HostImages:
    """Images in memory are put on the device if they fit there; all others are copied batch by batch."""
    if isinstance(images, StreamedImages) or not fits(device, images.nbytes):
        return HostImages(images, device)
    return DeviceImages(images, device)


def fits(device: torch.device, size: int) -> bool:
    """Whether images of `size` bytes fit on a device beside a network; on the CPU they lie there already."""
    return device.type != "cuda" or size <= MAX_MEMORY_FRACTION * torch.cuda.mem_get_info(device)[0]


@contextmanager
def _one_thread() -> Iterator[None]:
    """More threads wait for each other after each operation where workers use the cores: 4 times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _labels_on(device: torch.device, split: Split) -> Tensor:
    return torch.from_numpy(np.require(split.labels, requirements=("C", "W"))).to(device)


def _train_bounds(total: int, batch_size: int, world_size: int) -> list[int]:
    """Where global batches start, and the end."""
    bounds = [*range(0, total, batch_size), total]
    if total > batch_size and 0 < total % batch_size < 2 * world_size:
        del bounds[-2]
    return bounds


def _share(size: int, rank: int, world_size: int) -> slice:
    """The rows of one rank: contiguous, in rank order, sizes at most one apart, larger ones first."""
    start, stop = (-(-size * part // world_size) for part in (rank, rank + 1))
    return slice(start, stop)


def _shifted(rows: slice, start: int) -> slice:
    return slice(start + rows.start, start + rows.stop)
