"""Look-alikes of ICText-LT for those who may not have it: rendered once, then read as the real images are."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from ffds.data.ictext.chips import FLAWS, Chip, draw_chip
from ffds.data.ictext.layout import (
    CHARACTERS,
    MARKER,
    PAPER,
    Crop,
    Sizes,
    cut_out,
    write_root,
    write_split,
)
from ffds.data.progress import counted
from ffds.errors import InputError
from ffds.files import write_json
from ffds.randomness import derived_seed
from ffds.recipes.schema import RENDERED

__all__ = ["rendered_sample", "write_parent"]

FORMAT = 1
"""Rises when the same seed gives other images."""
PER_CHIP = 10
README = f"""# {RENDERED}

The 36 characters of ICText-LT, drawn with the fonts of matplotlib and Pillow on backgrounds that look like
chips: no photograph, nothing from ICText. The class counts are those of ICText-LT (Nah et al., ICIP 2023);
accuracies measured on these images say nothing about it. `{MARKER}` holds the seed.
"""


def rendered_sample(directory: Path, seed: int, sizes: Sizes = PAPER) -> Path:
    """The directory of the sample, in the layout of ICText-LT; it is rendered only if it is not there.

    The training set is the natural one, of which the loader cuts every other imbalance factor.

    Args:
        directory: where it lies or shall lie; made if missing.
        seed: decides every pixel, any integer >= 0.
        sizes: images a class; the paper's.

    Raises:
        InputError: the directory cannot be written, or what lies there is another sample.
    """
    root = directory / f"ictext-sample-seed{seed}"
    made = {"format": FORMAT, "seed": seed, "natural": list(sizes.natural), "test": sizes.test}
    if not root.exists():
        _render(root, seed, sizes, made)
    found = _marker(root)
    if found != {"what": RENDERED, **made}:
        raise InputError(
            "this is not the rendered sample that is asked for",
            where=root / MARKER,
            got=json.dumps(found),
            allowed=f"format {FORMAT}, seed {seed}, {sum(sizes.natural)} training images",
            fix="remove the directory: it is rendered again; or give another data.root",
        )
    return root


def write_parent(directory: Path, split: str, counts: Mapping[str, int], seed: int) -> tuple[Path, Path]:
    """Write rendered chips with annotations in ICText's form: ``<split>.json`` and the folder ``<split>/``.

    With them the cut of ICText-LT out of ICText can be tried by who has no ICText.

    Args:
        directory: where to write; it exists.
        split: decides, with `seed`, what is drawn.
        counts: how often each letter or digit appears, lower case too.
        seed: any integer >= 0.

    Returns:
        The annotation file and the directory of images.
    """
    names = CHARACTERS + string.ascii_lowercase
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (directory / split).mkdir()
    for k, chip in enumerate(_chips(split, counts, seed)):
        height, width = chip.pixels.shape[:2]
        images.append({"id": k, "file_name": f"{k:05d}.png", "height": height, "width": width})
        Image.fromarray(chip.pixels).save(directory / split / images[k]["file_name"], compress_level=1)
        annotations += [
            {
                "id": len(annotations) + place,
                "image_id": k,
                "bbox": mark.corners,
                "category_id": names.index(mark.name),
                "aesthetic": [int(flaw) for flaw in mark.flaws],
                "ignore": 0,
            }
            for place, mark in enumerate(chip.marks)
        ]
    categories = [{"id": k, "name": name} for k, name in enumerate(names)]
    info = {"description": f"{RENDERED}; aesthetic: {', '.join(FLAWS)}"}
    file = directory / f"{split}.json"
    write_json(file, {"info": info, "images": images, "annotations": annotations, "categories": categories})
    return file, directory / split


def _render(root: Path, seed: int, sizes: Sizes, made: Mapping[str, object]) -> None:
    counts = {
        "train": dict(zip(CHARACTERS, sizes.natural, strict=True)),
        "val": dict.fromkeys(CHARACTERS, sizes.test),
    }
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=root.parent, prefix=".") as unfinished:
            part = Path(unfinished, root.name)
            for split, wanted in counts.items():
                write_split(part, split, _crops(split, wanted, seed))
            write_root(part, README, made)
            part.rename(root)
    except OSError as error:
        if not root.exists():  # another process may have been faster
            raise InputError("the sample cannot be rendered", where=root, got=error) from error


def _crops(split: str, counts: Mapping[str, int], seed: int) -> Iterator[Crop]:
    for k, chip in enumerate(_chips(split, counts, seed)):
        for place, mark in enumerate(chip.marks):
            yield Crop(f"{k:05d}_{place}.png", mark.name, cut_out(chip.pixels, mark.corners))


def _chips(split: str, counts: Mapping[str, int], seed: int) -> Iterator[Chip]:
    """Chips that together carry each character as often as asked for, in an order by chance."""
    stream = np.random.RandomState(derived_seed(seed, "ictext", split) % 2**32)
    text = stream.permutation([name for name, count in counts.items() for _ in range(count)]).tolist()
    starts = range(0, len(text), PER_CHIP)
    for start in counted(starts, f"rendered {split} chips, not ICText"):
        yield draw_chip(text[start : start + PER_CHIP], derived_seed(seed, "ictext", split, start))


def _marker(root: Path) -> object:
    try:
        return json.loads((root / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
