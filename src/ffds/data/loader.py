"""Makes training and evaluation batches from a split, on the training device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ffds.data.augment.mixing import Mixing
from ffds.data.dataset import Split
from ffds.data.resample.draws import Draws
from ffds.data.streaming import StreamedImages
from ffds.data.transforms import EvalTransform, TrainTransform
from ffds.errors import InputError
from ffds.methods.base import Mix, Sampler
from ffds.recipes.schema import Data
from ffds.seeding import derived_seed

__all__ = ["Batch", "EvalBatches", "StoredImages", "TrainBatches", "fits"]

MAX_MEMORY_FRACTION = 1 / 2
"""Images that take more of an accelerator's free memory than this would leave too little for the network."""


class Batch(NamedTuple):
    """One rank's part of a global batch, on the training device.

    `images` are float32 (B, C, h, w), channels-last, several views of each (B, V, C, h, w), or features
    (B, D) where the split has them, `labels` int64 (B,), `indices` (B,) places in the split; `global_size`
    counts the rows of the batch over all ranks. Of mixed images, `probabilities` are those of all classes
    (B, num_classes), and the label is the one with the larger share.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    global_size: int
    probabilities: Tensor | None = None

    @property
    def target(self) -> Tensor:
        """What the loss takes: labels (B,), or probabilities (B, num_classes) of mixed images."""
        return self.labels if self.probabilities is None else self.probabilities


class TrainBatches:
    """Epochs of augmented training batches; an epoch draws `total` images, see `Draws`.

    Images, order and augmentation depend on the seed, epoch and step only: not on the device, the number of
    ranks, the steps before, where the images are kept, or any global generator. Together, in rank order, the
    ranks get the batch that one rank would get alone; their parts differ by at most one row. InputError where
    a rank would get no row.

    Where the batch size does not divide the number of images, a rest of fewer than 2 · world_size rows joins
    the batch before it: batch norm needs two rows. A batch size above the number of images gives one batch.
    `rows` is the most that a rank has in every batch of an epoch but the last. `num_classes` is asked for
    where images are mixed; None is the largest label and one.
    """

    def __init__(
        self,
        split: Split,
        data: Data,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        num_classes: int | None = None,
        total: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        total = len(split) if total is None else total
        if min(batch_size, total) < world_size:
            got = f"{total} images in batches of {batch_size} for {world_size} ranks"
            allowed = f"at least {world_size} of each"
            fix = "use fewer devices or a larger trainer.batch_size"
            raise InputError("a rank would get no training image", got=got, allowed=allowed, fix=fix)
        self._images = StoredImages.of(split, device)
        self._labels = torch.tensor(split.labels, device=device)
        self._data, self._transform = data, TrainTransform(data)
        self._num_classes = int(split.labels.max()) + 1 if num_classes is None else num_classes
        self._bounds = _train_bounds(total, batch_size, world_size)
        self.rows = -(-self._bounds[1] // world_size)
        self._draws = Draws(split.labels, seed, subset_seed=data.seed, total=total)
        self._partners = Draws(split.labels, derived_seed(seed, "partners"), total=total)
        self._seed, self._rank, self._world_size = seed, rank, world_size

    def __len__(self) -> int:
        """Steps of an epoch."""
        return len(self._bounds) - 1

    def epoch(
        self,
        epoch: int,
        start_step: int = 0,
        sampler: Sampler = "instance-balanced",
        progress: float = 0.0,
        views: Sequence[Mapping[str, Any]] = (),
        mix: Mix | None = None,
    ) -> Iterator[Batch]:
        """The batches of one epoch from step `start_step` on, where the ones before it are done already.

        `progress` is the fraction of the epochs of its phase that are done before it. `views` says of further
        views of each image what is different from the recipe's data section there, as
        `ffds.methods.base.Stage` does; `mix` how images are mixed, None as the data section does.
        """
        mix, drawn, partners = mix or self._data.mix, self._draws.epoch(epoch, sampler, progress), None
        if mix is not None and mix.partner_power is not None:
            partners = self._partners.epoch(epoch, 1 - mix.partner_power)
        transforms = [self._transform]
        transforms += [TrainTransform(self._data.model_copy(update=dict(view))) for view in views]
        steps = list(enumerate(pairwise(self._bounds)))[start_step:]
        plans = [self._plan(epoch, step, bounds, mix, drawn, partners) for step, bounds in steps]
        ends = list(accumulate((len(plan.places) for plan in plans), initial=0))
        order = torch.cat([drawn[:0], *(plan.places for plan in plans)])
        stored = self._images.batches(order, [slice(start, end) for start, end in pairwise(ends)])
        for plan, (images, indices) in zip(plans, stored, strict=True):
            yield self._batch(plan, images, indices, transforms)

    def _plan(
        self,
        epoch: int,
        step: int,
        bounds: tuple[int, int],
        mix: Mix | None,
        drawn: Tensor,
        partners: Tensor | None,
    ) -> _Plan:
        """What this rank trains on in the step whose global batch lies between `bounds` of the epoch."""
        start, size = bounds[0], bounds[1] - bounds[0]
        part = _part(0, size, self._rank, self._world_size)
        mixing = None if mix is None else Mixing.of(mix, derived_seed(self._seed, "mix", epoch, step))
        needs_previous = mixing is not None and partners is None
        rows = torch.arange(part.start - needs_previous, part.stop) % size
        places = drawn[start + rows]
        if mixing is not None and partners is not None:
            places = torch.cat([places, partners[start + rows]])
        return _Plan(epoch, step, size, rows, places, mixing)

    def _batch(
        self, plan: _Plan, stored: Tensor, indices: Tensor, transforms: Sequence[TrainTransform]
    ) -> Batch:
        """The batch of a plan, of the stored images at its places, each seen through all the transforms."""
        labels, own = self._labels.index_select(0, indices), len(plan.rows)
        with self._images.preparing():
            images = self._augmented(plan, stored[:own], "augment", transforms)
            if plan.mixing is None:
                return Batch(images, labels, indices, plan.size)
            if len(stored) > own:
                others = self._augmented(plan, stored[own:], "augment partners", transforms)
                (labels, other_labels), indices = labels.chunk(2), indices[:own]
            else:
                images, others = images[1:], images[:-1]
                labels, other_labels, indices = labels[1:], labels[:-1], indices[1:]
            images, labels, probabilities = plan.mixing(
                images, others, labels, other_labels, self._num_classes
            )
            return Batch(images, labels, indices, plan.size, probabilities)

    def _augmented(
        self, plan: _Plan, stored: Tensor, purpose: str, transforms: Sequence[TrainTransform]
    ) -> Tensor:
        """The stored images at the rows of a plan, augmented; features stay as they are."""
        if stored.ndim == 2:
            return stored
        seed = derived_seed(self._seed, purpose, plan.epoch, plan.step)
        seeds = [seed, *(derived_seed(seed, "view", k) for k in range(1, len(transforms)))]
        pairs = zip(transforms, seeds, strict=True)
        views = [view(stored, own, rows=plan.rows, global_size=plan.size) for view, own in pairs]
        return views[0] if len(views) == 1 else _side_by_side(views)


class _Plan(NamedTuple):
    """A step of one rank: the size of its global batch, the rank's rows in that, and the places of these.

    Where images are mixed with the one before them, the first row is there only as the partner of the second;
    where partners are drawn, their places follow after those of the rows.
    """

    epoch: int
    step: int
    size: int
    rows: Tensor
    places: Tensor
    mixing: Mixing | None


def _side_by_side(views: Sequence[Tensor]) -> Tensor:
    """Views (B, C, h, w), channels-last, as (B, V, C, h, w), of which each image is channels-last."""
    return torch.stack([view.permute(0, 2, 3, 1) for view in views], dim=1).permute(0, 1, 4, 2, 3)


class EvalBatches:
    """Every image of a split once over all ranks, in order, without chance.

    Each global batch of `batch_size` rows is divided among the ranks, the first ones taking the odd rows; a
    rank with no row skips the batch, so it may have fewer batches than the others, or none. `transform` takes
    the place of `EvalTransform`.
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
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._images = StoredImages.of(split, device)
        self._labels = torch.tensor(split.labels, device=device)
        self._transform = transform or EvalTransform(data)
        self._batch_size, self._rank, self._world_size = batch_size, rank, world_size

    def __iter__(self) -> Iterator[Batch]:
        """This rank's batches."""
        total, size = len(self._labels), self._batch_size
        sizes = [min(size, total - start) for start in range(0, total, size)]
        parts = [_part(k * size, rows, self._rank, self._world_size) for k, rows in enumerate(sizes)]
        kept = [(rows, part) for rows, part in zip(sizes, parts, strict=True) if part.start < part.stop]
        stored = self._images.batches(torch.arange(total), [part for _, part in kept])
        for (rows, part), (images, indices) in zip(kept, stored, strict=True):
            with self._images.preparing():
                prepared = self._transform(images) if images.ndim > 2 else images
            yield Batch(prepared, self._labels[part], indices, rows)


class StoredImages:
    """Images uint8 (N, H, W, C): `on_device` if they fit; others in memory or in files, copied by batches.

    Features, float32 (N, D), are kept in the same way.
    """

    def __init__(self, images: NDArray[Any] | StreamedImages, device: torch.device) -> None:
        self._images: Tensor | NDArray[Any] | StreamedImages = images
        self._device = device
        self.on_device = not isinstance(images, StreamedImages) and fits(device, images.nbytes)
        if not isinstance(images, StreamedImages) and self.on_device:
            self._images = torch.from_numpy(np.require(images, requirements=("C", "W"))).to(device)

    @classmethod
    def of(cls, split: Split, device: torch.device) -> StoredImages:
        """What batches of a split are made of: its features if it has them, else its images."""
        return cls(split.images if split.features is None else split.features, device)

    def batches(self, order: Tensor, parts: Sequence[slice]) -> Iterator[tuple[Tensor, Tensor]]:
        """Batch by batch, the images uint8 (B, H, W, C) and their places int64 (B,), on the device.

        `order` (N,) holds the places on the CPU, `parts` which of them each batch takes. The host does not
        wait for the copies.
        """
        images, placed = self._images, order.to(self._device)
        if isinstance(images, Tensor):
            yield from ((images.index_select(0, placed[part]), placed[part]) for part in parts)
            return
        rows = [order.numpy()[part] for part in parts]
        read = images.batches(rows) if isinstance(images, StreamedImages) else (images[one] for one in rows)
        for part, batch in zip(parts, map(torch.from_numpy, read), strict=True):
            pinned = batch.pin_memory() if self._device.type == "cuda" else batch
            yield pinned.to(self._device, non_blocking=True), placed[part]

    def preparing(self) -> AbstractContextManager[None]:
        """Entered while a batch is augmented: on the CPU, workers leave a core to one thread only."""
        return nullcontext() if self.on_device or self._device.type != "cpu" else _one_thread()


def fits(device: torch.device, size: int) -> bool:
    """Whether images of `size` bytes fit on a device beside a network; on the CPU they lie there already."""
    return device.type != "cuda" or size <= MAX_MEMORY_FRACTION * torch.cuda.mem_get_info(device)[0]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Beside workers, several threads wait for each other after each operation: 4 times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _train_bounds(total: int, batch_size: int, world_size: int) -> list[int]:
    """Where global batches start, and the end."""
    bounds = [*range(0, total, batch_size), total]
    if total > batch_size and 0 < total % batch_size < 2 * world_size:
        del bounds[-2]
    return bounds


def _part(start: int, size: int, rank: int, world_size: int) -> slice:
    """Rows of one rank in a batch from `start` on: contiguous, in rank order, the first ranks' one longer."""
    first, stop = (start - (-size * part // world_size) for part in (rank, rank + 1))
    return slice(first, stop)
