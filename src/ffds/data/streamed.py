"""Images that stay in their files and are decoded each time they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffds.data.decoder import PIECE
from ffds.data.decoders import Decoders
from ffds.data.images import FileImages, unreadable

__all__ = ["StreamedImages"]

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
