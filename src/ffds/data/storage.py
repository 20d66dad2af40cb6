"""Where images are kept: all of them in memory, or in their files until they are needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ffds.data.dataset import Split
from ffds.data.decode import Encoded, FileImages, attempt
from ffds.data.source import Labelled
from ffds.data.sources.registry import SOURCES
from ffds.data.streaming import PIECE, Decoders, StreamedImages
from ffds.environment import is_first_rank, ranks_here, usable_cores
from ffds.errors import InputError
from ffds.progress import counted
from ffds.recipes.schema import Data

__all__ = ["kept", "machine_memory", "stay_in_files", "without_unreadable"]

PART = 3
"""Images that take more than this part of the memory, a third, stay in their files."""
MOST_WORKERS = 8
CONTROL_GROUP = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def stay_in_files(data: Data, splits: Sequence[Labelled]) -> bool:
    """Whether images stay in their files, as `data.in_memory` says.

    ``auto``: if all of them, decoded, take more than a third of this machine's memory, of which each of the
    ranks on it has its share.

    Args:
        data: the recipe's section.
        splits: all the images that are needed.

    Raises:
        InputError: they shall, but are not in files of their own.
    """
    own = all(isinstance(split.images, FileImages) for split in splits)
    if data.in_memory is False and not own:
        separate = [name for name, facts in SOURCES.items() if facts.file_per_image]
        raise InputError(
            "these images cannot stay in their files: several share one",
            got=f"data.in_memory=false, data.name={data.name}",
            allowed=f"one file for each image, as in {', '.join(separate)}, and no Parquet files",
            fix="set data.in_memory to auto or true",
        )
    if data.in_memory == "auto":
        return own and _decoded_bytes(splits) * ranks_here() > machine_memory() // PART
    return not data.in_memory


def kept(data: Data, splits: Sequence[Labelled], description: str) -> Callable[[Labelled], Split]:
    """What brings a split to where its images are kept; one line on standard error tells if that is the disk.

    Args:
        data: the recipe's section.
        splits: all the images that are needed.
        description: of their source.

    Raises:
        InputError: see `stay_in_files`.
    """
    if not stay_in_files(data, splits):
        return lambda split: Split(split.read(), split.labels, _own_files(split))
    decoders = _decoders(data, splits)
    if is_first_rank():
        print(_told(data, splits, description, decoders.workers), file=sys.stderr, flush=True)
    return lambda split: Split(
        StreamedImages(_files(split), split.rows, decoders), split.labels, _own_files(split)
    )


def without_unreadable(
    data: Data, splits: Sequence[Labelled]
) -> list[tuple[Labelled, NDArray[np.bool_], tuple[str, ...]]]:
    """Of each split the images that can be read, a mask of them, and what is left out.

    Every file is decoded once, and nothing of it is kept.

    Args:
        data: the recipe's section.
        splits: images in files of their own.
    """
    decoders = _decoders(data, splits)
    try:
        return [_readable(split, decoders) for split in splits]
    finally:
        decoders.close()


def machine_memory() -> int:
    """Bytes of memory that this process may use: of the machine, or of the container it runs in."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit in CONTROL_GROUP:
        # Absent on machines without control groups, "max" where there is no limit.
        with suppress(OSError, ValueError):
            found.append(int(Path(limit).read_text(encoding="ascii")))
    return min(found)


def _readable(split: Labelled, decoders: Decoders) -> tuple[Labelled, NDArray[np.bool_], tuple[str, ...]]:
    files, sound = _files(split), np.ones(len(split), dtype=np.bool_)
    pieces = [split.rows[start : start + PIECE] for start in range(0, len(split), PIECE)]
    skipped = []
    decoded = decoders.decode(files.paths, pieces)
    for number, piece in enumerate(counted(pieces, f"pieces of {PIECE} images checked")):
        _, faults = next(decoded)
        sound[[number * PIECE + k for k in faults]] = False
        skipped += [f"{files.place(int(piece[k]))}: {fault}" for k, fault in faults.items()]
    return split.take(sound), sound, tuple(skipped)


def _decoders(data: Data, splits: Sequence[Labelled]) -> Decoders:
    workers = (
        max(1, min(MOST_WORKERS, usable_cores() // ranks_here())) if data.workers is None else data.workers
    )
    return Decoders(_files(splits[0]).stored, _shape(splits), workers)


def _decoded_bytes(splits: Sequence[Labelled]) -> int:
    return sum(map(len, splits)) * prod(_shape(splits))


def _shape(splits: Sequence[Labelled]) -> tuple[int, int, int]:
    """Of each image; where they are stored as they are, that of the first that can be read."""
    stored = _files(splits[0]).stored
    if stored.size is not None:
        return stored.size, stored.size, 3 if stored.mode == "RGB" else 1
    for split in splits:
        for row in split.rows.tolist():
            path = _files(split).paths[row]
            pixels = attempt(stored, Encoded(row, str(path), path))
            if not isinstance(pixels, str):
                height, width, channels = pixels.shape
                return height, width, channels
    raise InputError("no image can be read", where=_files(splits[0]).paths[0].parent)


def _files(split: Labelled) -> FileImages:
    if not isinstance(split.images, FileImages):
        raise TypeError(f"images in files of their own are wanted, not {type(split.images).__name__}")
    return split.images


def _own_files(split: Labelled) -> tuple[Path, ...] | None:
    if not isinstance(split.images, FileImages):
        return None
    return tuple(split.images.paths[row] for row in split.rows.tolist())


def _told(data: Data, splits: Sequence[Labelled], description: str, workers: int) -> str:
    size = _decoded_bytes(splits) / 2**30
    why = (
        f", {size:.3g} GiB decoded, more than a third of {machine_memory() / 2**30:.3g} GiB of memory,"
        if data.in_memory == "auto"
        else ""
    )
    who = f"{workers} worker{'s' * (workers != 1)}" if workers else "the training process"
    return f"{description}: {sum(map(len, splits)):,} images{why} stay in their files; {who} will decode them"
