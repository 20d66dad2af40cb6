"""The stored images of a split on the training device: all of them from the start, or batch by batch."""

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

__all__ = ["Batch", "Brought", "EvalBatches", "Resident", "TrainBatches", "images_on"]

PART = 2
"""An array of more than half of an accelerator's free memory would leave too little for the network."""


class Resident:
    """Images that all lie on the device.

    Args:
        images: uint8 (N, H, W, C).
        device: where they shall be.
    """

    def __init__(self, images: NDArray[np.uint8], device: torch.device) -> None:
        self._images = torch.from_numpy(np.require(images, requirements=("C", "W"))).to(device)

    def batches(self, order: Tensor, parts: Sequence[slice]) -> Iterator[tuple[Tensor, Tensor]]:
        """Some images after others.

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


class Brought:
    """Images that are brought to the device when their batch is due.

    Args:
        images: in their files, or in memory as uint8 (N, H, W, C).
        device: where each batch shall be.
    """

    def __init__(self, images: NDArray[np.uint8] | StreamedImages, device: torch.device) -> None:
        self._images, self._device = images, device

    def batches(self, order: Tensor, parts: Sequence[slice]) -> Iterator[tuple[Tensor, Tensor]]:
        """As `Resident.batches`; the host does not wait for the copies."""
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
        """Entered while a batch is augmented: in one thread where processes decode on the same cores."""
        decoded_beside = isinstance(self._images, StreamedImages) and self._device.type == "cpu"
        return _one_thread() if decoded_beside else nullcontext()

    def _gathered(
        self, batches: Sequence[NDArray[np.int64]], empty: Callable[[int], NDArray[np.uint8]]
    ) -> Iterator[NDArray[np.uint8]]:
        for rows in batches:
            images = empty(len(rows))
            images[:] = self._images[rows]
            yield images


def images_on(device: torch.device, images: NDArray[np.uint8] | StreamedImages) -> Resident | Brought:
    """Images in memory lie on the device if they fit there well; all others are brought batch by batch."""
    if isinstance(images, StreamedImages) or images.nbytes > _room(device):
        return Brought(images, device)
    return Resident(images, device)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Threads that meet after each operation wait for the one whose core is taken, and take cores to wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _room(device: torch.device) -> float:
    """Bytes that images may take on a device; on the CPU they take nothing that they do not have already."""
    return torch.cuda.mem_get_info(device)[0] / PART if device.type == "cuda" else float("inf")


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
    """As many images of a split per epoch as it has, drawn and augmented by chance.

    Instance-balanced, every image comes once. Class-balanced, each draw takes a class, all alike, then one
    of its images: a rare class comes as often as a frequent one, its images many times (Kang et al. 2020).

    Images, order and augmentation depend on the seed, epoch and step only: not on the device, the number of
    ranks, the steps before, where the images are kept, or any global generator. Together, in rank order, the
    ranks get the batch that one rank would get alone; their parts differ by at most one row.

    Where the batch size does not divide the number of images, a rest of fewer than 2 · world_size rows joins
    the batch before it: batch norm needs two rows. A batch size above the number of images gives one batch.

    Args:
        split: the images; those in memory are moved to `device` once, here.
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
        self._images, self._labels = images_on(device, split.images), _labels_on(device, split)
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
            start_step: steps to leave out because they are done already; the others do not change.
            sampler: which images are drawn.
        """
        steps = range(start_step, len(self))
        sizes = [self._bounds[step + 1] - self._bounds[step] for step in steps]
        shares = [_share(size, self._rank, self._world_size) for size in sizes]
        parts = [_behind(self._bounds[step], share) for step, share in zip(steps, shares, strict=True)]
        stored = self._images.batches(self._drawn(epoch, sampler), parts)
        for step, size, rows, (images, indices) in zip(steps, sizes, shares, stored, strict=True):
            seed = derived_seed(self._seed, "augment", epoch, step)
            with self._images.preparing():
                augmented = self._transform(images, seed, rows=rows, global_size=size)
            yield Batch(augmented, self._labels.index_select(0, indices), indices, size)

    def _drawn(self, epoch: int, sampler: Sampler) -> Tensor:
        """Places of the images of an epoch, those of all ranks."""
        generator = torch.Generator().manual_seed(derived_seed(self._seed, "order", epoch))
        total, counts = len(self._labels), self._class_counts
        if sampler == "instance-balanced":
            return torch.randperm(total, generator=generator)
        drawn = torch.randint(len(counts), (total,), generator=generator)
        within = torch.rand(total, generator=generator, dtype=torch.float64) * counts[drawn]
        return self._rows_of_class[(counts.cumsum(0) - counts)[drawn] + within.long()]


class EvalBatches:
    """Every image of a split once over all ranks, in order, without chance.

    Each global batch is cut into one piece a rank, the first ranks taking the odd rows; a rank whose piece is
    empty skips it, so it may have fewer batches than the others, or none.

    Args:
        split: the images; those in memory are moved to `device` once, here.
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
        self._images, self._labels = images_on(device, split.images), _labels_on(device, split)
        self._transform = EvalTransform(data)
        self._batch_size, self._rank, self._world_size = batch_size, rank, world_size

    def __iter__(self) -> Iterator[Batch]:
        """This rank's batches."""
        total = len(self._labels)
        starts = range(0, total, self._batch_size)
        sizes = [min(self._batch_size, total - start) for start in starts]
        shares = [_share(size, self._rank, self._world_size) for size in sizes]
        found = [
            (size, _behind(start, share))
            for start, size, share in zip(starts, sizes, shares, strict=True)
            if share.start < share.stop
        ]
        stored = self._images.batches(torch.arange(total), [part for _, part in found])
        for (size, part), (images, indices) in zip(found, stored, strict=True):
            with self._images.preparing():
                prepared = self._transform(images)
            yield Batch(prepared, self._labels[part], indices, size)


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


def _behind(start: int, share: slice) -> slice:
    """Where the rows of a batch that begins at `start` stand in the whole."""
    return slice(start + share.start, start + share.stop)
