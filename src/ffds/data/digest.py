"""One sum over all that decides the pixels of images in files: their bytes, and what decodes them."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from functools import cache
from importlib.resources import files as resources
from pathlib import Path

from PIL import features

from ffds.data.threads import image_threads

__all__ = ["pixels_digest"]

READERS = ("images.py", "parquet.py")
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
