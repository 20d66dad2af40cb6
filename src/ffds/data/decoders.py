"""Processes that decode image files ahead of whoever needs them, in the order they will be needed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import prod
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ffds.data.decoder import PIECE, Layout, Slots, decode_into
from ffds.data.images import Stored
from ffds.errors import FfdsError, InputError

__all__ = ["Decoders"]

AHEAD = 16
"""Pieces decoded ahead at least, 512 images: 100 MB at 256 pixels a side."""
ROOM = 2**28
"""Bytes that hold pieces, but for images so large that not even one piece a worker would find room."""

_COMMAND = "from ffds.data.decoder import main; main()"

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
