"""Writes a folder of photographs as people have them: a long tail, and files that are not as they should be.

``python -m benchmarks.messy_photos PACK OUT`` cuts twelve classes from the Parquet files of Tiny ImageNet
in PACK and writes them to OUT/train and OUT/Test. `docs/own-images.md` goes from there to a model in use.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

__all__ = ["CLASSES", "messy_photos"]

CLASSES = {
    "n01443537": "goldfish, Carassius auratus",
    "n01882714": "koala",
    "n02056570": "king penguin",
    "n02099601": "golden retriever",
    "n02123394": "Persian cat",
    "n02132136": "brown bear, bruin",
    "n02206856": "bee",
    "n02279972": "monarch butterfly",
    "n04146614": "school bus",
    "n04398044": "teapot – théière",
    "n07749582": "lemon",
    "n07873807": "pizza",
}
"""Twelve classes of Tiny ImageNet by the name of their images, and the directories they are written to."""

LARGEST, SMALLEST = 200, 4
"""Training images of the first and of the last class; those between fall exponentially."""


def messy_photos(pack: Path, out: Path, largest: int = LARGEST) -> None:
    """Write the folder; `pack` holds the Parquet files, `out` must not exist yet.

    The test set has all 50 images of each class but those of the last one, of which it has 5.
    """
    out.mkdir(parents=True)
    test = dict.fromkeys(CLASSES, 50) | {"n07873807": 5}
    last = len(CLASSES) - 1
    train = {
        wnid: round(largest * (SMALLEST / largest) ** (place / last)) for place, wnid in enumerate(CLASSES)
    }
    for split, pattern, counts in (("train", "train-*.parquet", train), ("Test", "val-*.parquet", test)):
        written = dict.fromkeys(CLASSES, 0)
        for wnid, content in _images(pack, pattern):
            if written[wnid] < counts[wnid]:
                directory = out / split / CLASSES[wnid]
                directory.mkdir(parents=True, exist_ok=True)
                _write(directory, written[wnid], content)
                written[wnid] += 1
    _add_what_does_not_belong(out)


def _images(pack: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """The name of the class and the JPEG of each image of the twelve classes, in the order of the pack."""
    for file in sorted(pack.glob(pattern)):
        table = pq.read_table(file, columns=["image", "label"])
        names = _class_names(file)
        for image, label in zip(table["image"].to_pylist(), table["label"].to_pylist(), strict=True):
            if names[label] in CLASSES:
                yield names[label], image["bytes"]


def _class_names(file: Path) -> list[str]:
    metadata = json.loads(pq.read_schema(file).metadata[b"huggingface"])
    names: list[str] = metadata["info"]["features"]["label"]["names"]
    return names


def _write(directory: Path, number: int, content: bytes) -> None:
    """Most files are the JPEG as it is; every few of them is in another format, mode or orientation."""
    image = Image.open(io.BytesIO(content))
    name = f"IMG {number:04d}"
    match number % 12:
        case 3:
            image.save(directory / f"{name}.png")
        case 5:
            image.convert("CMYK").save(directory / f"{name}.JPG", quality=92)
        case 7:  # lies on its side, with the note by which a viewer turns it upright
            exif = Image.Exif()
            exif[0x0112] = 6
            turned = image.transpose(Image.Transpose.ROTATE_90)
            turned.save(directory / f"{name}.jpeg", exif=exif.tobytes(), quality=92)
        case 9:
            image.convert("L").save(directory / f"{name} (copy).webp", lossless=True)
        case 11:
            image.convert("P").save(directory / f"{name}.gif")
        case _:
            (directory / f"{name}.jpg").write_bytes(content)


def _add_what_does_not_belong(out: Path) -> None:
    """A truncated photograph, a text called .jpg, notes, hidden files, a training image in the test set."""
    first, second = (out / "train" / name for name in list(CLASSES.values())[:2])
    whole = (first / "IMG 0000.jpg").read_bytes()
    (first / "broken.jpg").write_bytes(whole[: len(whole) // 3])
    (second / "page.jpg").write_text("<html>Not found</html>")
    (second / "notes.txt").write_text("taken in the zoo\n")
    (first / ".DS_Store").write_bytes(b"\0")
    (second / "Thumbs.db").write_bytes(b"\0")
    (out / "Test" / first.name / "seen before.jpg").write_bytes(whole)


def main() -> None:
    """Write the folder that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pack", type=Path, metavar="PACK", help="directory of the Parquet files")
    parser.add_argument("out", type=Path, metavar="OUT", help="directory to write")
    options = parser.parse_args()
    messy_photos(options.pack, options.out)


if __name__ == "__main__":
    main()
