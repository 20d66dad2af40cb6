"""A published dataset in any of its forms: the original files, their archive, or Parquet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ffds.data.source import Source, existing_root, root_path
from ffds.data.sources.archive import Archive
from ffds.errors import InputError
from ffds.recipes.schema import Data

__all__ = ["Published", "open_published"]


@dataclass(frozen=True)
class Published:
    """Where and how a dataset is published.

    Attributes:
        title: its name, for a person.
        archive: the original archive.
        marker: a file by which its unpacked directory is known.
        label_column: the label's column in its Parquet form.
        num_classes: its number of classes.
    """

    title: str
    archive: Archive
    marker: str
    label_column: str
    num_classes: int

    @property
    def accepted(self) -> str:
        """The forms that may lie below `data.root`, for a message."""
        return (
            f"the folder {self.archive.folder}/, the archive {self.archive.file}, "
            "or Parquet files train-*.parquet and test-*.parquet (or val-*)"
        )


def open_published(data: Data, published: Published, read_original: Callable[[Path], Source]) -> Source:
    """The first of: the original folder (`data.root` or in it), Parquet files, the archive, a download.

    Raises:
        InputError: none is there, or what is there is broken or another dataset.
    """
    original = _original_folder(data, published)
    if original is None:
        # Only now: who has the original files needs no pyarrow.
        from ffds.data.sources.parquet import open_parquet, split_files

        if data.root is not None and split_files(root_path(data.root), "train"):
            return _as_published(open_parquet(_column_of(data, published)), data, published)
        original = _unpacked(data, published)
    return _as_published(read_original(original), data, published)


def _original_folder(data: Data, published: Published) -> Path | None:
    if data.root is None:
        return None
    root = root_path(data.root)
    folders = (root / published.archive.folder, root)
    return next((folder for folder in folders if (folder / published.marker).is_file()), None)


def _column_of(data: Data, published: Published) -> Data:
    # image_size is for the network alone: the pixels of a published set are held as they are.
    column = data.label_column or published.label_column
    return data.model_copy(update={"label_column": column, "image_size": None, "eval_resize": None})


def _unpacked(data: Data, published: Published) -> Path:
    fetch = "or fetch it: data.root=DIR data.download=true"
    fix = f"give the directory of any of these: data.root=DIR; {fetch}"
    if data.root is None or not data.download:
        existing_root(data, published.accepted, fix)
    root = root_path(data.root or "")
    folder = published.archive.unpacked(root, data.download)
    if folder is None:
        raise InputError(f"no {published.title}", where=root, allowed=published.accepted, fix=fix)
    return folder


def _as_published(source: Source, data: Data, published: Published) -> Source:
    classes = len(source.class_names)
    if classes != published.num_classes and data.label_column in (None, published.label_column):
        raise InputError(
            f"this is not {published.title}",
            where=data.root,
            got=f"{classes} classes",
            allowed=f"{published.num_classes} classes",
            fix="set data.name to the dataset that lies there",
        )
    return source
