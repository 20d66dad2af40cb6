"""Decodes image files into arrays of pixels, many at a time in threads."""

from __future__ import annotations

import hashlib
import platform
import stat
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from itertools import chain, islice
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features

from ffds.data.source import Decoded, Encoded, OnBad, Origin
from ffds.environment import usable_cores
from ffds.errors import InputError
from ffds.recipes.schema import Data, Interpolation

__all__ = [
    "BATCH",
    "CACHE_FORMAT",
    "FORMATS",
    "SUFFIXES",
    "FileImages",
    "Stored",
    "attempt",
    "check_size",
    "content_digests",
    "decode",
    "decode_all",
    "image_threads",
    "opened",
    "pixels_digest",
    "pixels_of",
    "refusing_bombs",
    "remembered",
    "unreadable",
]

CACHE_FORMAT = 1
"""Part of the key of every cached image: raise it when this code or a reader gives other pixels."""
Image.init()
COMMON_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "PPM")
OTHER_FORMATS = ("DIB", "JPEG2000", "ICO", "PCX", "QOI", "SGI", "SUN")
FORMATS = tuple(form for form in (*COMMON_FORMATS, *OTHER_FORMATS) if form in Image.OPEN)
"""What is decoded, as far as the installed Pillow can: one picture a file, known by a signature at its start.

Left out are TGA (without a signature, any damaged file could be taken for one), EPS (it starts Ghostscript),
containers such as PSD, ICNS and PDF, and formats of science and of games.
"""
SUFFIXES = {suffix for suffix, form in Image.registered_extensions().items() if form in (*FORMATS, "MPO")}
"""Lower-case endings of files in these formats; ``.mpo`` is a JPEG with more pictures behind it."""
DEEPER_THAN_A_BYTE = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
LIBRARIES = ("pil", "jpg", "libjpeg_turbo", "webp", "zlib", "libtiff", "avif", "jpg_2000")
MAX_THREADS = 8
"""More threads only wait for the disk and for memory."""
BATCH = 64
"""Images that a thread decodes at a time: a small one takes less time than handing it over."""
BATCHES_AHEAD = 8
YOUNG = 2 * 10**9
"""Nanoseconds after a change of a file in which its times may not show another one."""
_KNOWN: dict[tuple[str | int, ...], bytes] = {}


@dataclass(frozen=True, repr=False)
class Stored:
    """How images are held in memory.

    Attributes:
        size: side S of the stored square, made with Pillow's antialiased filter. None: as they are, so all
            must have one size.
        mode: ``RGB``, three channels, or ``L``, one.
        fit: ``crop``: the centred square of the short side is brought to S x S, as torchvision's Resize(S)
            and CenterCrop(S) do, where a large JPEG is decoded at 2S or more only; ``pad``: black is added to
            the short side first, so that nothing is lost.
        interpolation: the filter.
    """

    size: int | None = None
    mode: Literal["RGB", "L"] = "RGB"
    fit: Literal["crop", "pad"] = "crop"
    interpolation: Interpolation = "bilinear"

    @classmethod
    def of(
        cls, data: Data, mode: Literal["RGB", "L"] = "RGB", fit: Literal["crop", "pad"] = "crop"
    ) -> Stored:
        """What a recipe asks for: squares of side `data.eval_resize` or else `data.image_size`."""
        return cls(data.eval_resize or data.image_size, mode, fit, data.interpolation)

    def __repr__(self) -> str:
        """Part of the key of cached images: bilinear ones are called as when there was no other filter."""
        named = f"size={self.size!r}, mode={self.mode!r}, fit={self.fit!r}"
        other = "" if self.interpolation == "bilinear" else f", interpolation={self.interpolation!r}"
        return f"Stored({named}{other})"

    @property
    def resampling(self) -> Image.Resampling:
        """The filter as Pillow knows it."""
        return Image.Resampling[self.interpolation.upper()]


def decode(content: bytes | Path, stored: Stored) -> NDArray[np.uint8]:
    """The pixels of one image, uint8 (H, W, C), upright (EXIF orientation applied, where it can be read).

    Raises:
        ValueError: no bytes, more than 8 bits a channel, or no regular file. Pillow raises many other errors.
    """
    if isinstance(content, Path):
        with opened(content) as file:
            content = file.read()
    if not content:
        raise ValueError("no bytes")
    with Image.open(BytesIO(content), formats=FORMATS) as image:
        if stored.size is not None and stored.fit == "crop":
            # A JPEG so large is decoded at 1/2, 1/4 or 1/8 of its size, and still is twice what is needed.
            image.draft(None, (2 * stored.size, 2 * stored.size))
        return pixels_of(image, stored)


def pixels_of(image: Image.Image, stored: Stored) -> NDArray[np.uint8]:
    """As `decode`, of an image that Pillow has opened or made; the image itself is turned upright."""
    if image.mode in DEEPER_THAN_A_BYTE:
        raise ValueError(f"more than 8 bits a channel (mode {image.mode}): convert it to 8 bits")
    _turn_upright(image)
    whole = image if image.mode == stored.mode else image.convert(stored.mode)
    whole.load()
    if stored.size is not None:
        whole = (_cropped if stored.fit == "crop" else _padded)(whole, stored.size, stored.resampling)
    pixels = np.asarray(whole)
    return pixels.reshape(*pixels.shape[:2], -1)


def attempt(content: bytes | Path | None, stored: Stored) -> NDArray[np.uint8] | str:
    """The pixels of an image, or what is wrong with it."""
    try:
        return decode(content or b"", stored)
    except UnidentifiedImageError:
        return f"not an image in a known format ({', '.join(FORMATS)})"
    except Exception as error:  # Pillow's readers raise nearly anything on broken bytes
        return f"{type(error).__name__}: {error}"


def decode_all(batches: Iterable[Sequence[Encoded]], count: int, stored: Stored, on_bad: OnBad) -> Decoded:
    """Decode in threads into one array of `count` images; only some of the encoded ones are held at a time.

    `batches` hold about `BATCH` images each; together their positions are 0 .. count - 1. With `on_bad`
    ``skip``, an image that cannot be read is zero in the array; with ``stop`` it is an InputError, as are
    images of different sizes and a set of which none can be read.
    """
    images: NDArray[np.uint8] | None = None
    bad: dict[int, str] = {}
    left = iter(batches)
    with refusing_bombs(), image_threads() as threads:
        while group := list(islice(left, BATCHES_AHEAD)):
            decoded = threads.map(lambda batch: [attempt(item.content, stored) for item in batch], group)
            for item, pixels in zip(chain(*group), chain.from_iterable(decoded), strict=True):
                if isinstance(pixels, str):
                    if on_bad == "stop":
                        raise unreadable(item.name, pixels)
                    bad[item.position] = f"{item.name}: {pixels}"
                    continue
                if images is None:
                    images = np.zeros((count, *pixels.shape), dtype=np.uint8)
                check_size(item.name, pixels.shape, images.shape[1:])
                images[item.position] = pixels
    if images is None:
        raise InputError("no image can be read", got="; ".join(list(bad.values())[:3]))
    return Decoded(images, bad)


@contextmanager
def refusing_bombs() -> Iterator[None]:
    """While entered, an image of suspiciously many pixels cannot be read (Pillow alone would only warn).

    Pillow's other warnings, about metadata and transparency that are not used here, are not shown.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def unreadable(name: str, fault: str) -> InputError:
    """The error of an image that cannot be read."""
    fix = "repair or remove it, or leave out all that cannot be read: data.on_bad_image=skip"
    return InputError("an image cannot be read", where=name, got=fault, fix=fix)


def check_size(name: str, shape: tuple[int, ...], first: tuple[int, ...]) -> None:
    """Raise InputError if an image has another shape (H, W, C) than the first, so no array can hold both."""
    if shape != first:
        got, allowed = f"{shape[1]}x{shape[0]}", f"{first[1]}x{first[0]}, as the first image read"
        fix = "bring all to one size: data.image_size=S (for your own images and ICText)"
        raise InputError("images differ in size", where=name, got=got, allowed=allowed, fix=fix)


@dataclass(frozen=True)
class FileImages:
    """Images with one file each."""

    paths: tuple[Path, ...]
    stored: Stored

    @property
    def files(self) -> tuple[Path, ...]:
        """One for each image."""
        return self.paths

    def read(self, rows: NDArray[np.int64], on_bad: OnBad) -> Decoded:
        """The images at `rows`, in that order."""
        return decode_all(self.encoded(rows), len(rows), self.stored, on_bad)

    def encoded(self, rows: NDArray[np.int64]) -> Iterator[list[Encoded]]:
        """The files of `rows`, in that order."""
        paths = [self.paths[row] for row in rows.tolist()]
        items = [Encoded(position, str(path), path) for position, path in enumerate(paths)]
        return (items[start : start + BATCH] for start in range(0, len(items), BATCH))

    def origin(self, rows: NDArray[np.int64]) -> Origin | None:
        """The files of `rows` and the digest of their content; None if one cannot be read."""
        paths = tuple(self.paths[row] for row in rows.tolist())
        digest = pixels_digest(paths, str(self.stored).encode())
        return None if digest is None else Origin(paths, digest)

    def contents(self, rows: NDArray[np.int64]) -> list[bytes]:
        """sha256 of the file of each of the `rows`."""
        return content_digests([self.paths[row] for row in rows.tolist()])

    def place(self, row: int) -> str:
        """The path of a row."""
        return str(self.paths[row])


def pixels_digest(files: Sequence[Path], *choices: bytes) -> str | None:
    """sha256 of all that decides the pixels: the content of the files, the choices, the decoder's version.

    Names and times of the files do not count. None where there is no file, or one that cannot be read.
    """
    contents = content_digests(files)
    if not contents or not all(contents):
        return None
    versions = (f"{name} {features.version(name)}" for name in LIBRARIES)
    decoder = [text.encode() for text in (f"format {CACHE_FORMAT}", *versions, platform.machine())]
    total = hashlib.sha256()
    for part in (*contents, b"", *choices, b"", *decoder):
        total.update(len(part).to_bytes(8, "big") + part)
    return total.hexdigest()


def image_threads() -> ThreadPoolExecutor:
    """Threads to decode, encode or hash images, whose libraries release Python's lock: one a usable core."""
    return ThreadPoolExecutor(min(MAX_THREADS, usable_cores()))


def content_digests(files: Sequence[Path]) -> list[bytes]:
    """sha256 of the content of each file, empty where it cannot be read."""
    with image_threads() as threads:
        return list(threads.map(_content_digest, files))


def _content_digest(path: Path) -> bytes:
    def digest() -> bytes:
        with opened(path) as file:
            return hashlib.file_digest(file, "sha256").digest()

    try:
        return remembered(path, "content", digest)
    except (OSError, ValueError):
        return b""


def remembered(path: Path, what: str, digest: Callable[[], bytes]) -> bytes:
    """`digest()`, which is a sum of what is in a file, or what it was before if the file is unchanged.

    A file that has the same place on the disk, size and times is unchanged, unless it is so young that it
    could have been written twice within one tick of the clock of its times.
    """
    found = path.stat()
    key = (what, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    if key in _KNOWN:
        return _KNOWN[key]
    young = time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < YOUNG
    content = digest()
    if not young:
        _KNOWN[key] = content
    return content


def opened(path: Path) -> BufferedReader:
    """A file opened to be read; ValueError for a pipe, socket or device, for which one could wait forever."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("not a regular file")
    return path.open("rb")


def _turn_upright(image: Image.Image) -> None:
    image.load()
    try:
        image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow raises nearly anything on broken EXIF
        return
    ImageOps.exif_transpose(image, in_place=True)


def _cropped(image: Image.Image, side: int, resampling: Image.Resampling) -> Image.Image:
    # Cropped before it is resized: a panorama never becomes a huge intermediate image.
    left, top = max(image.width - image.height, 0) / 2, max(image.height - image.width, 0) / 2
    box = (left, top, image.width - left, image.height - top)
    return image.resize((side, side), resampling, box=box)


def _padded(image: Image.Image, side: int, resampling: Image.Resampling) -> Image.Image:
    # The long side is shrunk before black is added to the other, for the same reason.
    long = max(image.size)
    wide, tall = image.width == long, image.height == long
    shrunk = (side if wide else image.width, side if tall else image.height)
    strip = image.resize(shrunk, resampling)
    whole = Image.new(image.mode, (side if wide else long, side if tall else long))
    whole.paste(strip, ((whole.width - strip.width) // 2, (whole.height - strip.height) // 2))
    return whole.resize((side, side), resampling)
