"""Tiny ImageNet: the original folder, its zip, or Parquet files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ffds.data.decode import FileImages, Stored
from ffds.data.source import Labelled, Source
from ffds.data.sources.archive import Archive
from ffds.data.sources.folder import images_below
from ffds.data.sources.published import Published, open_published
from ffds.errors import InputError
from ffds.recipes.schema import Data

__all__ = ["TINY_IMAGENET", "open_tiny_imagenet"]

TINY_IMAGENET = Published(
    title="Tiny ImageNet",
    archive=Archive(
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        md5="90528d7ca1a48142e341f4ef8d21d0de",
        folder="tiny-imagenet-200",
    ),
    marker="val/val_annotations.txt",
    label_column="label",
    num_classes=200,
)


def open_tiny_imagenet(data: Data) -> Source:
    """The source `tiny-imagenet`: 64x64 RGB; a label is the place of its wnid among the sorted ones.

    Raises:
        InputError: nothing is there, or its annotations do not fit.
    """
    return open_published(data, TINY_IMAGENET, _original)


def _original(folder: Path) -> Source:
    wnids = tuple(sorted(_text(folder / "wnids.txt").split()))
    train = [
        (path, label) for label, wnid in enumerate(wnids) for path in images_below(folder / "train" / wnid)
    ]
    return Source(
        description=f"Tiny ImageNet, the original files in {folder}",
        class_names=wnids,
        train=_labelled(train),
        test=_labelled(_annotated(folder / "val", wnids)),
    )


def _annotated(val: Path, wnids: tuple[str, ...]) -> list[tuple[Path, int]]:
    """The validation images, in the order of their annotations."""
    annotations = val / "val_annotations.txt"
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    rows = []
    for number, line in enumerate(_text(annotations).splitlines(), start=1):
        name, wnid, *_ = [*line.split("\t"), ""]
        if wnid not in label_of:
            raise InputError(
                "a test image has no known class",
                where=f"{annotations}:{number}",
                got=line,
                allowed="image name, tab, a wnid of wnids.txt",
            )
        rows.append((val / "images" / name, label_of[wnid]))
    return rows


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("a file of Tiny ImageNet cannot be read", where=file, got=error) from error


def _labelled(rows: list[tuple[Path, int]]) -> Labelled:
    images = FileImages(tuple(path for path, _ in rows), Stored())
    return Labelled.all_of(images, np.array([label for _, label in rows], dtype=np.int64), images.place)
