"""A process that decodes image files into memory it shares with the one that asks for them.

It imports neither torch nor the program that started it, so it is there in a moment and stays small.
"""

from __future__ import annotations

import mmap
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ffds.data.images import Encoded, Stored, attempt, check_size
from ffds.errors import InputError

__all__ = ["PIECE", "Layout", "Slots", "decode_into", "main"]

PIECE = 32
"""Images that one process decodes at a time: batches larger than that are decoded by several at once."""


@dataclass(frozen=True)
class Layout:
    """How the shared memory is divided.

    Attributes:
        workers: processes that decode into it.
        slots: pieces that it holds.
        shape: (H, W, C) of an image.
    """

    workers: int
    slots: int
    shape: tuple[int, int, int]

    @property
    def begin(self) -> int:
        """Byte at which the first slot begins, behind one counter a worker."""
        return -(-8 * self.workers // mmap.PAGESIZE) * mmap.PAGESIZE

    @property
    def size(self) -> int:
        """Bytes of it all."""
        return self.begin + self.slots * PIECE * prod(self.shape)


class Slots:
    """Decoded images where several processes see them.

    Args:
        file: descriptor of a file of `layout.size` bytes.
        layout: how it is divided.

    Attributes:
        position: int64 (workers,), place in its piece of the image that each worker is at.
        images: uint8 (slots, PIECE, H, W, C).
    """

    def __init__(self, file: int, layout: Layout) -> None:
        memory = mmap.mmap(file, layout.size)
        self.position = np.frombuffer(memory, np.int64, layout.workers)
        pixels = np.frombuffer(memory, np.uint8, offset=layout.begin)
        self.images: NDArray[np.uint8] = pixels.reshape(layout.slots, PIECE, *layout.shape)


def decode_into(
    images: NDArray[np.uint8],
    paths: Sequence[Path],
    stored: Stored,
    at: Callable[[int], None] = lambda k: None,
) -> dict[int, str]:
    """Decode one file after the other.

    Args:
        images: uint8 (N, H, W, C) to write to, N at least the number of files.
        paths: the files.
        stored: size and channels wanted.
        at: told the place of each image before it is read.

    Returns:
        By place, what is wrong with each image that cannot be read; its pixels are undefined.

    Raises:
        InputError: an image has another size than (H, W).
    """
    faults: dict[int, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for k, path in enumerate(paths):
            at(k)
            pixels = attempt(stored, Encoded(k, str(path), path))
            if isinstance(pixels, str):
                faults[k] = pixels
                continue
            check_size(str(path), pixels.shape, images.shape[1:])
            images[k] = pixels
    return faults


def main() -> None:
    """Decode what is asked for until nobody is there to ask.

    The arguments of the process are descriptors: of the connection to whoever asks, and of the memory.
    """
    # Whoever asks decides what a signal means; this process ends with it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    connection, file = Connection(int(sys.argv[1])), int(sys.argv[2])
    with suppress(EOFError, ConnectionError):
        layout, worker, stored = connection.recv()
        slots = Slots(file, layout)
        while True:
            slot, paths = connection.recv()
            connection.send(_answer(slots, worker, slot, paths, stored))


def _answer(
    slots: Slots, worker: int, slot: int, paths: Sequence[Path], stored: Stored
) -> dict[int, str] | InputError:
    def at(k: int) -> None:
        slots.position[worker] = k

    try:
        return decode_into(slots.images[slot], paths, stored, at)
    except InputError as error:
        return error
    finally:
        at(0)
