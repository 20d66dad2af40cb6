"""Small copies of ICText-LT's layout, written by hand rather than by the code under test."""

import json
import string
from pathlib import Path

import numpy as np
from PIL import Image

from ffds.data.sources.ictext.layout import PAPER, Sizes

ORDER = list("012348A579C6TGBDMLSEPNRHKFIVJXUWQZYO")
INDEX = {name: label for label, name in enumerate([*ORDER, *string.ascii_lowercase])}
SMALL = Sizes(natural=tuple(count // 50 for count in PAPER.natural), head=100, test=2)
"""Fiftieths of the paper's counts, and…"""
TAIL = [int(100 * 100 ** (-i / 35)) for i in range(36)]
"""…their tail at imbalance factor 100."""


def picture(file: Path, value: int, size: tuple[int, int] = (5, 9)) -> None:
    """An image of one grey value, width and height as given."""
    Image.new("RGB", size, (value, value, value)).save(file)


def layout(root: Path, train: str, val: str, *, images: bool = True) -> Path:
    """The characters of both texts, each image of the value of its place; not all of one size."""
    for split, text in (("train", train), ("val", val)):
        folder = root / split / "imgs"
        folder.mkdir(parents=True)
        for place, _ in enumerate(text if images else ""):
            picture(folder / f"{place}.png", place % 256, (4 + place % 3, 9))
        lines = [f"{place}.png {name}\n" for place, name in enumerate(text)]
        (root / split / f"{split}.txt").write_text("".join(lines))
    (root / "char_2_idx.json").write_text(json.dumps(INDEX))
    return root


def values(images: np.ndarray) -> list[int]:
    """The grey value in the middle of each image."""
    return images[:, images.shape[1] // 2, images.shape[2] // 2, 0].tolist()
