"""How ICText-LT is laid out on disk, and its sizes in the paper."""

from __future__ import annotations

import json
import math
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from ffds.files import write_json, write_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["CHARACTERS", "INDEX", "LAYOUT", "MARKER", "PAPER", "RENDERED", "Sizes", "cut_out", "write_layout"]

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

    `natural` are the training images of each class as they come, at imbalance factor 18; `head` those of the
    largest class at imbalance factor 100, n_c = int(head · 100^(−c/35)); `test` the test images of a class.
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


def write_layout(
    root: Path,
    splits: Mapping[str, Iterable[tuple[str, str, bytes]]],
    readme: str,
    rendered: Mapping[str, object] | None = None,
) -> None:
    """Write a directory of the layout.

    `splits` gives for ``train`` and ``val`` the name, character and content of each image file; names are
    distinct and have no blank. `rendered` says how the images were rendered; None: they are photographs.
    """
    for split, images in splits.items():
        (root / split / "imgs").mkdir(parents=True)
        lines = []
        for name, character, content in images:
            (root / split / "imgs" / name).write_bytes(content)
            lines.append(f"{name} {character}\n")
        write_text(root / split / f"{split}.txt", "".join(lines))
    label_of = {character: label for label, character in enumerate(CHARACTERS + string.ascii_lowercase)}
    write_text(root / INDEX, json.dumps(label_of) + "\n")
    write_text(root / "README.md", readme)
    if rendered is not None:
        write_json(root / MARKER, {"what": RENDERED, **rendered})


def cut_out(pixels: NDArray[np.uint8], corners: Sequence[float]) -> bytes:
    """The upright rectangle around corners x1, y1, …, x4, y4, as far as it lies in the image, as a PNG file.

    A ValueError says that no pixel of it lies in the image.
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
