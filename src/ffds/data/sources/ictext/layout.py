"""How ICText-LT is laid out on disk, and its sizes in the paper."""

from __future__ import annotations

import json
import math
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ffds.files import write_json, write_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "CHARACTERS",
    "INDEX",
    "LAYOUT",
    "MARKER",
    "PAPER",
    "RENDERED",
    "Crop",
    "Sizes",
    "cut_out",
    "write_root",
    "write_split",
]

CHARACTERS = "012348A579C6TGBDMLSEPNRHKFIVJXUWQZYO"
"""The 36 classes in label order, which is that of falling frequency."""

LAYOUT = "train/imgs/*, train/train.txt, val/imgs/*, val/val.txt and char_2_idx.json"
INDEX = "char_2_idx.json"
RENDERED = "rendered sample, not ICText"
"""What everything made from rendered images says."""
MARKER = "rendered-sample.json"
"""A root with this file holds no photograph."""


@dataclass(frozen=True)
class Sizes:
    """How many characters ICText-LT has.

    Attributes:
        natural: training images of each class as they come, imbalance factor 18.
        head: training images of the largest class at imbalance factor 100, n_c = int(head · 100^(−c/35)).
        test: test images of every class.
    """

    natural: tuple[int, ...]
    head: int
    test: int


PAPER = Sizes(
    natural=(
        *(6155, 5786, 4543, 3923, 3739, 3721, 3439, 3062, 2884, 2595, 2257, 2231),
        *(1565, 1471, 1465, 1440, 1428, 1373, 1307, 1228, 1225, 1199, 1163, 1081),
        *(1076, 1073, 892, 861, 690, 639, 611, 572, 468, 436, 375, 334),
    ),
    head=3200,
    test=175,
)
"""Figure 4 of Nah et al. 2023 and their released loader: 68,307 natural and 6,300 test images."""


class Crop(NamedTuple):
    """One character's image file: its name, what it shows, its bytes."""

    name: str
    character: str
    content: bytes


def write_root(root: Path, readme: str, rendered: Mapping[str, object] | None = None) -> None:
    """Write the files beside the splits: the label of each character, and what this folder is.

    Args:
        root: the directory of the layout.
        readme: what a person should know.
        rendered: how the images were rendered; None: they are photographs.
    """
    label_of = {character: label for label, character in enumerate(CHARACTERS + string.ascii_lowercase)}
    write_text(root / INDEX, json.dumps(label_of) + "\n")
    write_text(root / "README.md", readme)
    if rendered is not None:
        write_json(root / MARKER, {"what": RENDERED, **rendered})


def write_split(root: Path, split: str, crops: Iterable[Crop]) -> None:
    """Write one split: its images, then the list that names them.

    Args:
        root: the directory of the layout.
        split: ``train`` or ``val``.
        crops: its images, with distinct names without a blank.
    """
    images = root / split / "imgs"
    images.mkdir(parents=True)
    lines = []
    for crop in crops:
        (images / crop.name).write_bytes(crop.content)
        lines.append(f"{crop.name} {crop.character}\n")
    write_text(root / split / f"{split}.txt", "".join(lines))


def cut_out(pixels: NDArray[np.uint8], corners: Sequence[float]) -> bytes:
    """The upright rectangle around a quadrilateral, as far as it lies in the image, as a PNG file.

    Args:
        pixels: uint8 (H, W, 3).
        corners: x1, y1, …, x4, y4 in pixels, from the upper left corner of the image.

    Raises:
        ValueError: no pixel of it lies in the image.
    """
    from PIL import Image

    height, width = pixels.shape[:2]
    left, right = max(math.floor(min(corners[::2])), 0), min(math.ceil(max(corners[::2])), width)
    top, bottom = max(math.floor(min(corners[1::2])), 0), min(math.ceil(max(corners[1::2])), height)
    if left >= right or top >= bottom:
        raise ValueError(f"nothing of it lies in the image of {width}x{height}")
    content = BytesIO()
    # Characters are small, and stronger compression takes minutes for all of them.
    Image.fromarray(pixels[top:bottom, left:right]).save(content, "PNG", compress_level=1)
    return content.getvalue()
