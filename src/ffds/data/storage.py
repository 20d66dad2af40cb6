"""Decides where images are kept: all of them in memory, or in their files until they are needed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ffds.data.cache import cached
from ffds.data.dataset import Split
from ffds.data.decode import FileImages, attempt, refusing_bombs
from ffds.data.source import ArrayImages, Decoded, Labelled, OnBad
from ffds.data.sources.registry import SOURCES
from ffds.data.streaming import PIECE, StreamedImages, decode_pieces, pieces_of
from ffds.environment import is_first_rank, ranks_here, usable_cores
from ffds.errors import InputError, note
from ffds.progress import track
from ffds.recipes.schema import Data

__all__ = ["keep_images", "machine_memory", "read_images", "without_unreadable"]

MAX_MEMORY_FRACTION = 1 / 3
"""Images that take more of the memory than this stay in their files."""
MAX_WORKERS = 8
MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def read_images(data: Data, split: Labelled, on_bad: OnBad = "stop") -> Decoded:
    """All images of a split in memory, by way of the cache on disk unless `data.cache` is off."""
    if data.cache:
        return cached(split.images, split.rows, on_bad)
    return split.images.read(split.rows, on_bad)


def keep_images(data: Data, splits: Sequence[Labelled], description: str) -> list[Split]:
    """Each split with its images in memory, or in their files, which a line on standard error then says.

    Raises InputError where an image cannot be read, sizes differ, or images are to stay in files they share.
    """
    if not _stay_in_files(data, splits):
        return [Split(read_images(data, split).images, split.labels, _paths(split)) for split in splits]
    shape, workers = _image_shape(splits), _workers(data)
    if is_first_rank():
        note(_streaming_message(data, splits, description, workers))
    return [
        Split(StreamedImages(_files(split), split.rows, shape, workers), split.labels, _paths(split))
        for split in splits
    ]


def without_unreadable(
    data: Data, splits: Sequence[Labelled]
) -> list[tuple[Labelled, NDArray[np.bool_], tuple[str, ...]]]:
    """Of each split the images that can be read, a mask of them, and a line about each of the others.

    Images that do not stay in their files are in memory from here on.
    """
    streamed, checked = _stay_in_files(data, splits), []
    for split in splits:
        images, bad, readable = None, {}, np.ones(len(split), dtype=np.bool_)
        if streamed:
            bad = _faults_in_files(data, split, _image_shape(splits))
        elif len(split):
            images, bad = read_images(data, split, "skip")
        readable[list(bad)] = False
        kept = split.take(readable)
        if images is not None:
            in_memory = ArrayImages(images[readable], _paths(kept) or ())
            kept = replace(kept, images=in_memory, rows=np.arange(len(kept)), place=kept.place_of)
        checked.append((kept, readable, tuple(bad.values())))
    return checked


def machine_memory() -> int:
    """Bytes of memory that this process may use: of the machine, or of the container it runs in."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in MEMORY_LIMITS:
        # Absent on machines without control groups, "max" where there is no limit.
        with suppress(OSError, ValueError):
            limits.append(int(Path(file).read_text(encoding="ascii")))
    return min(limits)


def _stay_in_files(data: Data, splits: Sequence[Labelled]) -> bool:
    """As `data.in_memory` says; ``auto`` compares with this machine's memory, which the ranks on it share."""
    own_files = all(isinstance(split.images, FileImages) for split in splits)
    if data.in_memory is False and not own_files:
        separate = ", ".join(name for name, facts in SOURCES.items() if facts.file_per_image)
        raise InputError(
            "these images cannot stay in their files: several share one",
            got=f"data.in_memory=false, data.name={data.name}",
            allowed=f"one file for each image, as in {separate}, and no Parquet files",
            fix="set data.in_memory to auto or true",
        )
    if data.in_memory == "auto":
        room = MAX_MEMORY_FRACTION * machine_memory()
        return own_files and _decoded_bytes(splits) * ranks_here() > room
    return not data.in_memory


def _faults_in_files(data: Data, split: Labelled, shape: tuple[int, int, int]) -> dict[int, str]:
    """By position the file and fault of each image that cannot be read; all are decoded, none is kept."""
    files, pieces, bad = _files(split), pieces_of(split.rows), {}
    with closing(decode_pieces(files, shape, pieces, _workers(data))) as decoded:
        for number, piece in enumerate(track(pieces, f"pieces of {PIECE} images checked")):
            for k, fault in next(decoded)[1].items():
                bad[number * PIECE + k] = f"{files.place(int(piece[k]))}: {fault}"
    return bad


def _workers(data: Data) -> int:
    if data.workers is not None:
        return data.workers
    return max(1, min(MAX_WORKERS, usable_cores() // ranks_here()))


def _decoded_bytes(splits: Sequence[Labelled]) -> int:
    return sum(map(len, splits)) * prod(_image_shape(splits))


def _image_shape(splits: Sequence[Labelled]) -> tuple[int, int, int]:
    """(H, W, C) of each image; where they are stored as they are, that of the first that can be read."""
    stored = _files(splits[0]).stored
    if stored.size is not None:
        return stored.size, stored.size, 3 if stored.mode == "RGB" else 1
    with refusing_bombs():
        for split in splits:
            for row in split.rows.tolist():
                pixels = attempt(_files(split).paths[row], stored)
                if not isinstance(pixels, str):
                    return pixels.shape[0], pixels.shape[1], pixels.shape[2]
    raise InputError("no image can be read", where=_files(splits[0]).paths[0].parent)


def _files(split: Labelled) -> FileImages:
    if not isinstance(split.images, FileImages):
        raise TypeError(f"expected images with a file each, not {type(split.images).__name__}")
    return split.images


def _paths(split: Labelled) -> tuple[Path, ...] | None:
    match split.images:
        case FileImages(paths=files) | ArrayImages(files=files) if files:
            return tuple(files[row] for row in split.rows.tolist())
    return None


def _streaming_message(data: Data, splits: Sequence[Labelled], description: str, workers: int) -> str:
    size, memory = _decoded_bytes(splits) / 2**30, machine_memory() / 2**30
    too_large = f", {size:.3g} GiB decoded, more than a third of {memory:.3g} GiB of memory,"
    why = too_large if data.in_memory == "auto" else ""
    who = f"{workers} worker{'s' * (workers != 1)}" if workers else "the training process"
    return f"{description}: {sum(map(len, splits)):,} images{why} stay in their files; {who} will decode them"
