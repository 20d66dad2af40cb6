"""Tiny ImageNet: the original folder, its zip, or Parquet files."""

from __future__ import annotations

from pathlib import Path

from ffds.data.decode import Stored
from ffds.data.source import Source
from ffds.data.sources.folder import files_below, is_image, labelled_files, read_text
from ffds.data.sources.published import Published, open_published
from ffds.errors import InputError
from ffds.recipes.schema import Data

__all__ = ["PUBLISHED", "open_tiny_imagenet"]

PUBLISHED = Published(
    title="Tiny ImageNet",
    url="https://cs231n.stanford.edu/tiny-imagenet-200.zip",
    sha256="6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
    folder="tiny-imagenet-200",
    marker="val",
    label_column="label",
    num_classes=200,
    train_images=500,
    test_images=50,
)


def open_tiny_imagenet(data: Data) -> Source:
    """The source `tiny-imagenet`: 64x64 RGB; a label is the place of its wnid among the sorted ones."""
    return open_published(data, PUBLISHED, _original)


def _original(folder: Path) -> Source:
    wnids = tuple(sorted(read_text(folder / "wnids.txt", PUBLISHED.accepted).split()))
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    train = [(path, label) for wnid, label in label_of.items() for path in _images(folder / "train" / wnid)]
    test = _test_images(folder / "val", label_of)
    description = f"Tiny ImageNet, the original files in {folder}"
    return Source(description, wnids, labelled_files(train, Stored()), labelled_files(test, Stored()))


def _test_images(directory: Path, label_of: dict[str, int]) -> list[tuple[Path, int]]:
    """In the published order, from ``images/`` or from directories of classes, as many people sort them."""
    annotations = directory / "val_annotations.txt"
    classes = [wnid for wnid in label_of if (directory / wnid).is_dir()]
    if classes and not annotations.exists():
        pairs = [(path, label_of[wnid]) for wnid in classes for path in _images(directory / wnid)]
        # val_9.JPEG comes before val_10.JPEG.
        return sorted(pairs, key=lambda pair: (len(pair[0].name), pair[0].name))
    places, pairs = {path.name: path for path in _images(directory)}, []
    for number, line in enumerate(read_text(annotations, PUBLISHED.accepted).splitlines(), start=1):
        name, wnid, *_ = [*line.split("\t"), ""]
        if wnid not in label_of:
            where, allowed = f"{annotations}:{number}", "image name, tab, a wnid of wnids.txt"
            raise InputError("a test image has no known class", where=where, got=line, allowed=allowed)
        if name in places:
            pairs.append((places[name], label_of[wnid]))
    return pairs


def _images(directory: Path) -> list[Path]:
    return list(filter(is_image, files_below(directory))) if directory.is_dir() else []
