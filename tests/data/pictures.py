"""Image files of several forms and sizes, for tests that read them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def write_picture(path: Path, seed: int, size: tuple[int, int] | None = None) -> Path:
    """A smooth coloured picture; without a size, of any, and turned by its EXIF tag now and then."""
    chance = np.random.default_rng(seed)
    width, height = size or chance.integers(20, 90, 2).tolist()
    noise = chance.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    exif = Image.Exif()
    if size is None:
        exif[0x0112] = int(chance.choice([1, 1, 6, 8]))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(path, exif=exif.tobytes())
    return path


def write_folder(root: Path, train: dict[str, int], test: dict[str, int]) -> Path:
    """An image folder with so many JPEGs and PNGs of each class."""
    seed = 0
    for split, counts in (("train", train), ("test", test)):
        for name, count in counts.items():
            for k in range(count):
                write_picture(root / split / name / f"{k:03d}.{('jpg', 'png')[k % 2]}", seed)
                seed += 1
    return root


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that claims to have side² pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def same(first, second):
    """Both datasets have the same classes and, in each split, the same images and labels."""
    assert first.class_names == second.class_names
    for split in ("train", "test", "validation"):
        a, b = getattr(first, split), getattr(second, split)
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a.images, b.images)
            np.testing.assert_array_equal(a.labels, b.labels)
