"""Images that stay in their files: the workers of a ``DataLoader`` decode them when a batch needs them."""

from __future__ import annotations

import atexit
import mmap
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffds.data.decode import FileImages, attempt, check_size, refusing_bombs, unreadable
from ffds.errors import FfdsError, InputError

__all__ = ["PIECE", "StreamedImages", "decode_pieces", "pieces_of"]

PIECE = 32
"""Images that a worker decodes at a time; a larger batch is decoded by several workers at once."""
PREFETCH = 2
"""Pieces that each worker decodes ahead."""
IDLE = -1

Rows = NDArray[np.int64]
Faults = dict[int, str]


@dataclass(frozen=True)
class StreamedImages:
    """Behaves like the array uint8 (N, H, W, C) of the decoded images, with the same pixels.

    Image i is the one at `rows[i]` of `files`; `workers` processes decode batches, 0: the calling process.
    """

    files: FileImages
    rows: Rows
    image_shape: tuple[int, int, int]
    workers: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, C)."""
        return (len(self), *self.image_shape)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        """As of an array: one image for an integer, an array of them for a slice, a mask or integers."""
        rows = self.rows[index]
        if np.size(rows) == 0:
            return np.empty((0, *self.image_shape), dtype=np.uint8)
        images = self.files.read(np.atleast_1d(rows), "stop").images
        return images if np.ndim(rows) else images[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)

    def take(self, indices: Rows) -> StreamedImages:
        """The images at `indices`, in that order, still in their files."""
        return replace(self, rows=self.rows[indices])

    def batches(self, batches: Sequence[Rows]) -> Iterator[NDArray[np.uint8]]:
        """Decode the images at each of `batches`, while the workers are ahead with later ones.

        Raises:
            InputError: an image cannot be read, or has another size than the first.
            FfdsError: a worker died.
        """
        pieces = [piece for batch in batches for piece in pieces_of(self.rows[batch])]
        with closing(decode_pieces(self.files, self.image_shape, pieces, self.workers)) as decoded:
            for batch in batches:
                images = np.empty((len(batch), *self.image_shape), dtype=np.uint8)
                for start in range(0, len(batch), PIECE):
                    pixels, faults = next(decoded)
                    for k, fault in faults.items():
                        raise unreadable(self.files.place(int(self.rows[batch[start + k]])), fault)
                    images[start : start + PIECE] = pixels
                yield images


def pieces_of(rows: Rows) -> list[Rows]:
    """The rows in portions for `decode_pieces`."""
    return [rows[start : start + PIECE] for start in range(0, len(rows), PIECE)]


def decode_pieces(
    files: FileImages, image_shape: tuple[int, int, int], pieces: Sequence[Rows], workers: int
) -> Generator[tuple[NDArray[np.uint8], Faults], None, None]:
    """Decode piece after piece in `workers` processes that end with the iteration; 0: in this process.

    Yields the images (n, H, W, C) of a piece, valid until the next is asked for, and, by place in the piece,
    what is wrong with those that cannot be read. `pieces` are rows of `files`, at most `PIECE` in each.

    Raises InputError where an image has another size than the others, FfdsError where a worker died.
    """
    reader = _Reader(files, image_shape, workers)
    answers, processes = _started(reader, pieces, workers)
    # At exit Python would send SIGTERM, which the workers ignore, and wait for them.
    end = partial(_kill, processes)
    atexit.register(end)
    try:
        for number, piece in enumerate(pieces):
            try:
                answer = next(answers)
            except RuntimeError:  # torch notices within five seconds that a worker died
                dead = [process for process in processes if process.exitcode]
                if dead:
                    raise reader.death_of(dead[0]) from None
                raise
            if isinstance(answer, InputError):
                raise answer
            yield reader.slot(number)[: len(piece)], answer
    finally:
        # Without its last reference the loader lets each worker finish the piece it is at.
        del answers
        end()
        atexit.unregister(end)


class _Reader:
    """The dataset of the loader: decodes pieces into memory that the workers share with their parent.

    The memory is anonymous: it needs no room in ``/dev/shm``, which containers keep small. Pixels sent
    through a pipe would leave the parent waiting forever if a worker were killed in the middle of them.
    """

    def __init__(self, files: FileImages, image_shape: tuple[int, int, int], workers: int) -> None:
        self._files = files
        # One piece more than are asked for at a time: the caller still uses the one before them.
        self._images = _shared((PREFETCH * workers + 1, PIECE, *image_shape), np.uint8)
        self._states = _shared((max(1, workers), 2), np.int64)  # process id and row of each worker
        self._worker = 0

    def slot(self, number: int) -> NDArray[np.uint8]:
        """Where the images of a piece are written, (PIECE, H, W, C)."""
        images: NDArray[np.uint8] = self._images[number % len(self._images)]
        return images

    def begin(self, worker: int) -> None:
        """Called in each worker when it starts."""
        threading.Thread(target=_exit_with_parent, daemon=True).start()
        # The training process decides what a signal to its group or to all processes of a job means.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        self._worker = worker
        self._states[worker] = os.getpid(), IDLE

    def __getitem__(self, request: tuple[int, Rows]) -> Faults | InputError:
        number, rows = request
        images, faults = self.slot(number), {}
        with refusing_bombs():
            for k, row in enumerate(rows.tolist()):
                self._states[self._worker, 1] = row
                pixels = attempt(self._files.paths[row], self._files.stored)
                if isinstance(pixels, str):
                    faults[k] = pixels
                    continue
                try:
                    check_size(self._files.place(row), pixels.shape, images.shape[1:])
                except InputError as error:
                    return error
                images[k] = pixels
        self._states[self._worker, 1] = IDLE
        return faults

    def death_of(self, process: BaseProcess) -> FfdsError:
        """The error of a worker that ended: how, and at which image."""
        code = process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        row = dict(self._states.tolist()).get(process.pid, IDLE)
        return FfdsError(
            f"a decoding worker (pid {process.pid}) {how}\n"
            f"  where:   {'between two images' if row == IDLE else self._files.place(row)}\n"
            "  fix:     the same command goes on from the last checkpoint; where memory ran out, "
            "with fewer workers: data.workers=N"
        )


def _started(
    reader: _Reader, pieces: Sequence[Rows], workers: int
) -> tuple[Iterator[Faults | InputError], list[BaseProcess]]:
    """The answers to the pieces, and the processes that give them.

    The workers are forked: scripts then need no ``if __name__ == "__main__"``. They use Pillow and numpy
    only, no thread and no device of their parent.
    """
    # Opening a dataset in memory needs no torch.
    import torch
    from torch.utils.data import DataLoader

    handler, others = signal.getsignal(signal.SIGCHLD), set(multiprocessing.active_children())
    with warnings.catch_warnings():
        # The number of workers is the user's choice; Python warns of any fork beside threads.
        warnings.filterwarnings("ignore", "This DataLoader will create")
        warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
        loader: DataLoader[Any] = DataLoader(
            reader,  # type: ignore[arg-type]
            batch_size=None,
            sampler=list(enumerate(pieces)),
            num_workers=workers,
            prefetch_factor=PREFETCH if workers else None,
            multiprocessing_context="fork" if workers else None,
            worker_init_fn=reader.begin,
            collate_fn=_unchanged,
            generator=torch.Generator(),  # so that torch draws nothing from the global one
        )
        answers = iter(loader)
    if handler is not None and threading.current_thread() is threading.main_thread():
        # torch's own raises the death of a worker in any line of code, not only where an image is awaited.
        signal.signal(signal.SIGCHLD, handler)
    return answers, [child for child in multiprocessing.active_children() if child not in others]


def _kill(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        process.kill()
        process.join()


def _exit_with_parent() -> None:
    """Torch's own watch misses a parent that is killed while the worker starts, or while an image hangs."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _unchanged(answer: Any) -> Any:
    return answer


def _shared(shape: tuple[int, ...], kind: type[np.generic]) -> NDArray[Any]:
    """An array that forked processes share, filled with zeros."""
    count = prod(shape)
    return np.frombuffer(mmap.mmap(-1, count * np.dtype(kind).itemsize), kind, count).reshape(shape)
