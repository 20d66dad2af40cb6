"""The stored images of a split on the training device: all of them from the start, or batch by batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ffds.data.streamed import StreamedImages

__all__ = ["Brought", "Resident", "images_on"]

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
