"""Decoding image files into one uint8 array, and naming the files that cannot be."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ffds.data.source import Decoded, OnBad
from ffds.errors import InputError

__all__ = ["Encoded", "FileImages", "Stored", "decode", "decode_all"]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
DEEPER_THAN_A_BYTE = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
BATCH = 512


@dataclass(frozen=True)
class Stored:
    """How images are held in memory.

    Attributes:
        size: side S of the stored square, made with Pillow's antialiased bilinear filter. None: as they are,
            so all must have one size.
        mode: ``RGB``, three channels, or ``L``, one.
        fit: ``crop``: the centred square of the short side is brought to S x S, as torchvision's Resize(S)
            and CenterCrop(S) do; ``pad``: black is added to the short side first, so that nothing is lost.
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
    """The pixels of one image, upright (EXIF orientation applied).

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
        ImageOps.exif_transpose(image, in_place=True)
        whole = image.convert(stored.mode)
    if stored.size is not None:
        whole = (_cropped if stored.fit == "crop" else _padded)(whole, stored.size)
    pixels = np.asarray(whole)
    return pixels.reshape(*pixels.shape[:2], -1)


def decode_all(batches: Iterable[Sequence[Encoded]], count: int, stored: Stored, on_bad: OnBad) -> Decoded:
    """Decode in threads into one array; only one batch of encoded images is held beside it.

    Args:
        batches: the images; together their positions are 0 .. count - 1.
        count: number of images N.
        stored: size and channels wanted.
        on_bad: ``stop`` at the first image that cannot be read, or ``skip`` it.

    Returns:
        The array (N, H, W, C), undefined at the positions of `bad`.

    Raises:
        InputError: an image cannot be read (``stop``), none can, or their sizes differ.
    """
    images: NDArray[np.uint8] | None = None
    bad: dict[int, str] = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for batch in batches:
            for item, pixels in zip(batch, threads.map(partial(_attempt, stored), batch), strict=True):
                if isinstance(pixels, str):
                    if on_bad == "stop":
                        raise _unreadable(item.name, pixels)
                    bad[item.position] = f"{item.name}: {pixels}"
                    continue
                if images is None:
                    images = np.empty((count, *pixels.shape), dtype=np.uint8)
                _check_size(item.name, pixels.shape, images.shape[1:])
                images[item.position] = pixels
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

    def place(self, row: int) -> str:
        """The path of a row."""
        return str(self.paths[row])


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


def _attempt(stored: Stored, item: Encoded) -> NDArray[np.uint8] | str:
    if not item.content:
        return "no bytes"
    try:
        return decode(item.content, stored)
    except UnidentifiedImageError:
        return f"not an image in a known format ({', '.join(FORMATS)})"
    except Exception as error:  # Pillow's readers raise nearly anything on broken bytes
        return f"{type(error).__name__}: {error}"


def _unreadable(name: str, fault: str) -> InputError:
    return InputError(
        "an image cannot be read",
        where=name,
        got=fault,
        fix="repair or remove it, or leave out all that cannot be read: data.on_bad_image=skip",
    )


def _check_size(name: str, found: tuple[int, ...], first: tuple[int, ...]) -> None:
    if found != first:
        raise InputError(
            "images differ in size",
            where=name,
            got=f"{found[1]}x{found[0]}",
            allowed=f"{first[1]}x{first[0]}, as the first image read",
            fix="bring all to one size: data.image_size=S (with data.name=folder, parquet or ictext)",
        )
