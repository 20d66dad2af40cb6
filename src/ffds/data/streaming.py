"""A process that decodes image files into memory it shares with the one that asks for them.

It imports neither torch nor the program that started it, so it is there in a moment and stays small.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import prod
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ffds.data.decode import Encoded, FileImages, Stored, attempt, check_size, unreadable
from ffds.errors import FfdsError, InputError

__all__ = ["PIECE", "Decoders", "Layout", "Slots", "StreamedImages", "decode_into", "main"]

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


AHEAD = 16
"""Pieces decoded ahead at least, 512 images: 100 MB at 256 pixels a side."""
ROOM = 2**28
"""Bytes that hold pieces, but for images so large that not even one piece a worker would find room."""

_COMMAND = "from ffds.data.streaming import main; main()"

Piece = NDArray[np.int64]
DecodedPiece = tuple[NDArray[np.uint8], dict[int, str]]


class Decoders:
    """A number of decoding processes, started when they are first needed.

    Not the workers of a ``DataLoader``: those are forks of a process with many threads, or import it anew
    (then a script needs ``if __name__ == "__main__"``), and each holds a torch of its own. The pixels do not
    depend on the number of processes, and where one dies, the error knows the image it was at.

    Args:
        stored: size and channels of the decoded images.
        shape: (H, W, C) of each.
        workers: processes; 0: whoever asks decodes.
    """

    def __init__(self, stored: Stored, shape: tuple[int, int, int], workers: int) -> None:
        self.stored, self.shape, self.workers = stored, shape, workers
        slots = min(max(AHEAD, 2 * workers), max(workers, ROOM // (PIECE * prod(shape))))
        self._layout = Layout(workers, slots, shape)
        self._started: list[_Decoder] = []
        self._slots: Slots | None = None
        self._reader: object = None
        weakref.finalize(self, _end, self._started)

    def decode(self, paths: Sequence[Path], pieces: Sequence[Piece]) -> Iterator[DecodedPiece]:
        """Decode piece after piece; later ones are worked on while the caller has an earlier one.

        A second reader may begin before the first one is done; each gets its own pieces.

        Args:
            paths: all files.
            pieces: places in `paths`, at most `decoder.PIECE` in each.

        Yields:
            The images (n, H, W, C) of a piece, valid until the next is asked for, and by place what is
            wrong with those that cannot be read.

        Raises:
            FfdsError: a process died.
            InputError: an image has another size than the others.
        """
        if not self.workers:
            yield from self._decoded_here(paths, pieces)
            return
        reader, sent = object(), 0
        for number, piece in enumerate(pieces):
            memory = self._memory
            if self._reader is not reader:
                self._forget_what_is_on_the_way()
                self._reader, sent = reader, number
            while sent < min(len(pieces), number + self._layout.slots):
                self._send(sent, [paths[row] for row in pieces[sent].tolist()])
                sent += 1
            faults = self._receive(self._started[number % self.workers])
            yield memory.images[number % self._layout.slots, : len(piece)], faults

    def close(self) -> None:
        """End the processes; a later call starts new ones."""
        _end(self._started)
        self._slots = self._reader = None

    @property
    def pids(self) -> list[int]:
        """Of the processes that run."""
        return [one.process.pid for one in self._started]

    @property
    def _memory(self) -> Slots:
        """The shared memory; with it come the processes."""
        if self._slots is None:
            file = _memory_file(self._layout.size)
            try:
                for worker in range(self.workers):
                    self._started.append(_start(file, self._layout, worker, self.stored))
                self._slots = Slots(file, self._layout)
            except BaseException:
                self.close()
                raise
            finally:
                os.close(file)
        return self._slots

    def _decoded_here(self, paths: Sequence[Path], pieces: Sequence[Piece]) -> Iterator[DecodedPiece]:
        for piece in pieces:
            images = np.empty((len(piece), *self.shape), dtype=np.uint8)
            yield images, decode_into(images, [paths[row] for row in piece.tolist()], self.stored)

    def _send(self, number: int, paths: list[Path]) -> None:
        decoder = self._started[number % self.workers]
        decoder.waiting.append(paths)
        try:
            decoder.connection.send((number % self._layout.slots, paths))
        except OSError as error:
            raise self._death_of(decoder) from error

    def _receive(self, decoder: _Decoder) -> dict[int, str]:
        try:
            answer: dict[int, str] | InputError = decoder.connection.recv()
        except (EOFError, OSError) as error:
            raise self._death_of(decoder) from error
        except BaseException:
            # Interrupted, perhaps in the middle of an answer.
            self.close()
            raise
        decoder.waiting.popleft()
        if isinstance(answer, InputError):
            raise answer
        return answer

    def _forget_what_is_on_the_way(self) -> None:
        for decoder in self._started:
            while decoder.waiting:
                try:
                    self._receive(decoder)
                except InputError:
                    continue

    def _death_of(self, decoder: _Decoder) -> FfdsError:
        number, piece = self._started.index(decoder), decoder.waiting[0]
        place = min(int(self._memory.position[number]), len(piece) - 1)
        process = decoder.process
        code = process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        self.close()
        return FfdsError(
            f"decoding worker {number} (pid {process.pid}) {how}\n"
            f"  where:   {piece[place]}\n"
            f"  batch:   image {place + 1} of the {len(piece)} from {piece[0]} to {piece[-1]}\n"
            "  fix:     the same command goes on from the last checkpoint; where memory ran out, "
            "with fewer workers: data.workers=N"
        )


@dataclass
class _Decoder:
    """One process, and the files of each piece that it has not answered."""

    process: subprocess.Popen[bytes]
    connection: Connection
    waiting: deque[list[Path]] = field(default_factory=deque)


def _start(file: int, layout: Layout, number: int, stored: Stored) -> _Decoder:
    ours, theirs = multiprocessing.Pipe()
    inherited = theirs.fileno(), file
    places = os.pathsep.join(place or str(Path.cwd()) for place in sys.path)
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _COMMAND, *map(str, inherited)],
        env=os.environ | {"PYTHONPATH": places},
        stdin=subprocess.DEVNULL,
        pass_fds=inherited,
        # Ctrl-C on a terminal goes to the group in the foreground.
        process_group=0,
    )
    theirs.close()
    # One that has ended already is found out when it is asked for images.
    with suppress(OSError):
        ours.send((layout, number, stored))
    return _Decoder(process, ours)


def _end(started: list[_Decoder]) -> None:
    for decoder in started:
        decoder.connection.close()
        decoder.process.kill()
    while started:
        started.pop().process.wait()


def _memory_file(size: int) -> int:
    """Descriptor of a file without a name: it is gone with the last process that holds it."""
    if sys.platform == "linux":
        # Not in /dev/shm, which containers keep small.
        file = os.memfd_create("ffds")
    else:
        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    os.truncate(file, size)
    return file


Rows = NDArray[np.int64]


@dataclass(frozen=True)
class StreamedImages:
    """Looks like the array uint8 (N, H, W, C) that it would be in memory, and gives the same pixels.

    Attributes:
        files: where the pixels come from.
        rows: int64 (N,), the place of each image in `files`.
        decoders: the processes that decode; several splits share them.
    """

    files: FileImages
    rows: Rows
    decoders: Decoders

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, C)."""
        return (len(self), *self.decoders.shape)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        """As of an array: one image for an integer, an array of them for a slice, a mask or integers."""
        rows = self.rows[index]
        found = self._none if np.size(rows) == 0 else self.files.read(np.atleast_1d(rows), "stop").images
        return found if np.ndim(rows) else found[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)

    def take(self, indices: Rows) -> StreamedImages:
        """The images at `indices`, in that order, still in their files."""
        return replace(self, rows=self.rows[indices])

    def batches(
        self, batches: Sequence[Rows], empty: Callable[[int], NDArray[np.uint8]]
    ) -> Iterator[NDArray[np.uint8]]:
        """Decode batch after batch; later ones are worked on while the caller has an earlier one.

        Args:
            batches: places of the images of each.
            empty: makes the array (n, H, W, C) that a batch of n images is written to.

        Raises:
            InputError: an image cannot be read.
            FfdsError: a decoding process died.
        """
        pieces = [rows[start:stop] for rows in batches for start, stop in _cuts(len(rows))]
        decoded = self.decoders.decode(self.files.paths, [self.rows[piece] for piece in pieces])
        for rows in batches:
            images = empty(len(rows))
            for start, stop in _cuts(len(rows)):
                pixels, faults = next(decoded)
                for k, fault in faults.items():
                    raise unreadable(self.files.place(int(self.rows[rows[start + k]])), fault)
                images[start:stop] = pixels
            yield images

    @property
    def _none(self) -> NDArray[np.uint8]:
        return np.empty((0, *self.decoders.shape), dtype=np.uint8)


def _cuts(size: int) -> list[tuple[int, int]]:
    """Where the pieces of a batch begin and end."""
    return [(start, min(start + PIECE, size)) for start in range(0, size, PIECE)]
