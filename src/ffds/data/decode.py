"""Threads for work on many images, whose libraries let go of the interpreter lock."""

from __future__ import annotations

import hashlib
import platform
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.resources import files as resources
from io import BytesIO
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features

from ffds.data.source import Decoded, OnBad, Origin
from ffds.environment import usable_cores
from ffds.errors import InputError

__all__ = [
    "Encoded",
    "FileImages",
    "Stored",
    "attempt",
    "check_size",
    "decode",
    "decode_all",
    "image_threads",
    "pixels_digest",
    "unreadable",
]

MOST = 8
"""More only wait for the disk and for memory."""


def image_threads() -> ThreadPoolExecutor:
    """One for each core that this process may use, within reason: to decode, encode or hash."""
    return ThreadPoolExecutor(min(MOST, usable_cores()))


READERS = ("decode.py", "sources/parquet.py")
BELOW = ("pil", "jpg", "libjpeg_turbo", "webp", "zlib", "libtiff")


def pixels_digest(files: Sequence[Path], *choices: bytes) -> str | None:
    """sha256 of the content of files, of what is made of it, and of the code that makes it.

    Names, places and times of the files do not count: a copy has the same sum, a changed byte another.

    Args:
        files: in the order in which they are read.
        choices: what else decides the pixels: the form they are stored in, the rows that are read.

    Returns:
        64 hex digits; None where there is no file, or one that cannot be read.
    """
    if not files:
        return None
    try:
        with image_threads() as threads:
            sums = list(threads.map(_sum, files))
    except OSError:
        return None
    total = hashlib.sha256()
    for part in (*sums, b"", *choices, b"", *_decoder()):
        total.update(len(part).to_bytes(8, "big") + part)
    return total.hexdigest()


def _sum(file: Path) -> bytes:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").digest()


@cache
def _decoder() -> tuple[bytes, ...]:
    """The text of our readers, so that no change of theirs can be forgotten here, and what they call."""
    texts = [resources(__package__).joinpath(name).read_bytes() for name in READERS]
    versions = [f"{name} {features.version(name)}" for name in BELOW]
    return (*texts, *(text.encode() for text in (*versions, platform.machine())))


FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
DEEPER_THAN_A_BYTE = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
BATCH = 512
PART = 32
"""Images that a thread decodes at a time: one alone may take less time than handing it over."""
PARTS_AHEAD = 16
Attempt = NDArray[np.uint8] | str
"""The pixels of an image, or what is wrong with it."""


@dataclass(frozen=True)
class Stored:
    """How images are held in memory.

    Attributes:
        size: side S of the stored square, made with Pillow's antialiased bilinear filter. None: as they are,
            so all must have one size.
        mode: ``RGB``, three channels, or ``L``, one.
        fit: ``crop``: the centred square of the short side is brought to S x S, as torchvision's Resize(S)
            and CenterCrop(S) do, where a large JPEG is decoded at 2S or more only; ``pad``: black is added to
            the short side first, so that nothing is lost.
    """

    size: int | None = None
    mode: Literal["RGB", "L"] = "RGB"
    fit: Literal["crop", "pad"] = "crop"


class Encoded(NamedTuple):
    """One image as it lies on disk: its place in the array, its name for a message, its bytes or file."""

    position: int
    name: str
    content: bytes | Path | None


def decode(content: bytes | Path, stored: Stored) -> NDArray[np.uint8]:
    """The pixels of one image, upright (EXIF orientation applied, where it can be read).

    Args:
        content: the bytes of the image file, or its path.
        stored: size and channels wanted.

    Returns:
        uint8 (H, W, 3), or (H, W, 1) in mode ``L``.

    Raises:
        ValueError: more than 8 bits a channel. Pillow raises what it likes on other faults.
    """
    encoded = content.read_bytes() if isinstance(content, Path) else content
    with Image.open(BytesIO(encoded), formats=FORMATS) as image:
        if image.mode in DEEPER_THAN_A_BYTE:
            raise ValueError(f"more than 8 bits a channel (mode {image.mode}): convert it to 8 bits")
        if stored.size is not None and stored.fit == "crop":
            # A JPEG so large is decoded at 1/2, 1/4 or 1/8 of its size, and still is twice what is needed.
            image.draft(None, (2 * stored.size, 2 * stored.size))
        _turn_upright(image)
        whole = image if image.mode == stored.mode else image.convert(stored.mode)
        whole.load()
    if stored.size is not None:
        whole = (_cropped if stored.fit == "crop" else _padded)(whole, stored.size)
    pixels = np.asarray(whole)
    return pixels.reshape(*pixels.shape[:2], -1)


def decode_all(batches: Iterable[Sequence[Encoded]], count: int, stored: Stored, on_bad: OnBad) -> Decoded:
    """Decode in threads into one array; beside it only some of the encoded images are held.

    Args:
        batches: the images; together their positions are 0 .. count - 1.
        count: number of images N.
        stored: size and channels wanted.
        on_bad: ``stop`` at the first image that cannot be read, or ``skip`` it.

    Returns:
        The array (N, H, W, C), zero at the positions of `bad`.

    Raises:
        InputError: an image cannot be read (``stop``), none can, or their sizes differ.
    """
    images: NDArray[np.uint8] | None = None
    bad: dict[int, str] = {}
    threads = image_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            for item, pixels in _attempts(batches, stored, threads):
                if isinstance(pixels, str):
                    if on_bad == "stop":
                        raise unreadable(item.name, pixels)
                    bad[item.position] = f"{item.name}: {pixels}"
                    continue
                if images is None:
                    images = np.zeros((count, *pixels.shape), dtype=np.uint8)
                check_size(item.name, pixels.shape, images.shape[1:])
                images[item.position] = pixels
        finally:
            threads.shutdown(cancel_futures=True)
    if images is None:
        raise InputError("no image can be read", got="; ".join(list(bad.values())[:3]))
    return Decoded(images, bad)


@dataclass(frozen=True)
class FileImages:
    """Images in files of their own."""

    paths: tuple[Path, ...]
    stored: Stored

    def read(self, rows: NDArray[np.int64], on_bad: OnBad) -> Decoded:
        """The images at `rows`, in that order."""
        items = [Encoded(k, str(self.paths[row]), self.paths[row]) for k, row in enumerate(rows.tolist())]
        batches = (items[start : start + BATCH] for start in range(0, len(items), BATCH))
        return decode_all(batches, len(items), self.stored, on_bad)

    def origin(self, rows: NDArray[np.int64]) -> Origin | None:
        """These files, and the sum of their content; None if one is not readable."""
        paths = tuple(self.paths[row] for row in rows.tolist())
        digest = pixels_digest(paths, str(self.stored).encode())
        return None if digest is None else Origin(paths, digest)

    def place(self, row: int) -> str:
        """The path of a row."""
        return str(self.paths[row])


def _attempts(
    batches: Iterable[Sequence[Encoded]], stored: Stored, threads: ThreadPoolExecutor
) -> Iterator[tuple[Encoded, Attempt]]:
    """Each image with what became of it, in order, while the threads are a few parts ahead."""
    ahead: deque[tuple[Sequence[Encoded], Future[list[Attempt]]]] = deque()
    for batch in batches:
        for part in (batch[start : start + PART] for start in range(0, len(batch), PART)):
            ahead.append((part, threads.submit(_part, stored, part)))
            if len(ahead) > PARTS_AHEAD:
                items, decoded = ahead.popleft()
                yield from zip(items, decoded.result(), strict=True)
    for items, decoded in ahead:
        yield from zip(items, decoded.result(), strict=True)


def _part(stored: Stored, items: Sequence[Encoded]) -> list[Attempt]:
    return [attempt(stored, item) for item in items]


def _turn_upright(image: Image.Image) -> None:
    image.load()
    try:
        image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow raises nearly anything on broken EXIF
        return
    ImageOps.exif_transpose(image, in_place=True)


def _cropped(image: Image.Image, side: int) -> Image.Image:
    # Cropped before it is resized: a panorama never becomes a huge intermediate image.
    left, top = max(image.width - image.height, 0) / 2, max(image.height - image.width, 0) / 2
    box = (left, top, image.width - left, image.height - top)
    return image.resize((side, side), Image.Resampling.BILINEAR, box=box)


def _padded(image: Image.Image, side: int) -> Image.Image:
    # The long side is shrunk before black is added to the other, for the same reason.
    long = max(image.size)
    wide, tall = image.width == long, image.height == long
    strip = image.resize(
        (side if wide else image.width, side if tall else image.height), Image.Resampling.BILINEAR
    )
    whole = Image.new(image.mode, (side if wide else long, side if tall else long))
    whole.paste(strip, ((whole.width - strip.width) // 2, (whole.height - strip.height) // 2))
    return whole.resize((side, side), Image.Resampling.BILINEAR)


def attempt(stored: Stored, item: Encoded) -> Attempt:
    """The pixels of an image, or what is wrong with it."""
    if not item.content:
        return "no bytes"
    try:
        return decode(item.content, stored)
    except UnidentifiedImageError:
        return f"not an image in a known format ({', '.join(FORMATS)})"
    except Exception as error:  # Pillow's readers raise nearly anything on broken bytes
        return f"{type(error).__name__}: {error}"


def unreadable(name: str, fault: str) -> InputError:
    """The error of an image that cannot be read."""
    return InputError(
        "an image cannot be read",
        where=name,
        got=fault,
        fix="repair or remove it, or leave out all that cannot be read: data.on_bad_image=skip",
    )


def check_size(name: str, found: tuple[int, ...], first: tuple[int, ...]) -> None:
    """Images that are stored as they are have one size.

    Raises:
        InputError: this one has another shape than the first.
    """
    if found != first:
        raise InputError(
            "images differ in size",
            where=name,
            got=f"{found[1]}x{found[0]}",
            allowed=f"{first[1]}x{first[0]}, as the first image read",
            fix="bring all to one size: data.image_size=S (with data.name=folder, parquet or ictext)",
        )
