"""Images in Parquet files in the hub's layout, and pre-cut packs, which also carry `lt_rank`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ffds.data.decode import BATCH, Stored, decode_all, pixels_digest, remembered
from ffds.data.source import Decoded, Encoded, Labelled, OnBad, Origin, Source, existing_root
from ffds.data.sources.labels import (
    LABEL_TYPE,
    Classes,
    FileLabels,
    check_rows,
    feature,
    integers,
    is_text,
    read_labels,
    reading,
    schema_of,
)
from ffds.data.sources.shards import LAYOUT, find_splits, scored_files
from ffds.data.sources.splits import listed
from ffds.errors import InputError, nearest
from ffds.recipes.schema import Data

__all__ = ["ParquetImages", "image_column", "image_mode", "label_column", "open_labelled", "open_parquet"]

OURS = ("index", "lt_rank")
"""Integer columns of a pack that are no labels."""
IMAGE_TYPE = "struct<bytes, path>"
_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)


def open_parquet(data: Data) -> Source:
    """The source `parquet`: any directory in the hub's layout. Classes are compared by name.

    Images are stored as they are, or, where `data.image_size` is given, as squares of side
    `data.eval_resize` or else `data.image_size`. A train file with a column `lt_rank` is a pre-cut pack:
    its tail is cut by that rank, whatever `data.seed` says. Without a test set the ranks are not used.
    """
    root = existing_root(data, LAYOUT)
    found = find_splits(root, data.test_split)
    images, column, stored = _columns(data, found.train[0])
    for files in (found.train, found.test, found.validation):
        _check_columns(files, images)
    trained, tested, held = (
        read_labels(files, column) for files in (found.train, found.test, found.validation)
    )
    classes = Classes.of(trained)
    train, test, validation = (
        _labelled(files, classes, ParquetImages(tuple(one.file for one in files), images, stored), column)
        for files in (trained, tested, held)
    )
    ranked = "lt_rank" in schema_of(found.train[0]).names and bool(found.test)
    return Source(
        description=f"Parquet files in {root}",
        class_names=classes.names,
        train=train,
        test=test,
        validation=validation if held else None,
        cut_test=not tested,
        test_split=found.test_split,
        ranks=np.concatenate([integers(file, "lt_rank") for file in found.train]) if ranked else None,
        notes=(*found.notes, *(note for one in (*tested, *held) for note in classes.notes(one))),
    )


def open_labelled(data: Data) -> Source:
    """Images to score: those of the test split, else of the validation or the training split, else all.

    Bare numbers name themselves; not all that are less than the largest need be there.
    """
    root = existing_root(data, LAYOUT)
    files, notes = scored_files(root, data.test_split)
    images, column, stored = _columns(data, files[0])
    _check_columns(files, images)
    labelled = read_labels(files, column)
    classes = Classes.of(labelled)
    split = _labelled(labelled, classes, ParquetImages(files, images, stored), column)
    names = classes.names if classes.kind != "numbers" else tuple(map(str, range(max(split.labels) + 1)))
    description = f"{listed([file.name for file in files])} in {files[0].parent}"
    return Source(description, names, train=split.take(np.arange(0)), test=split, notes=notes)


def _columns(data: Data, file: Path) -> tuple[str, str, Stored]:
    """The columns of the images and of their labels, and how the images are held in memory."""
    schema = schema_of(file)
    images = image_column(schema, data.image_column, file)
    stored = Stored.of(data, image_mode(schema, images))
    return images, label_column(schema, data.label_column, file), stored


def image_column(schema: pa.Schema, asked: str | None, where: object) -> str:
    """The image column: `asked`, or else the only one of type struct<bytes, path>."""
    possible = [field.name for field in schema if _holds_images(field.type)]
    return _column(schema, "image", asked, possible, where)


def _holds_images(kind: pa.DataType) -> bool:
    place = kind.get_field_index("bytes") if pa.types.is_struct(kind) else -1
    return place >= 0 and any(is_bytes(kind.field(place).type) for is_bytes in _BYTES)


def image_mode(schema: pa.Schema, column: str) -> Literal["RGB", "L"]:
    """The channels that the hub's metadata asks for: ``L``, one, or ``RGB``, three, where it does not say."""
    return "L" if feature(schema, column).get("mode") == "L" else "RGB"


def label_column(schema: pa.Schema, asked: str | None, where: object) -> str:
    """`asked`, or else the only one declared as class label, of integers, or of text and named ``label``."""
    whole = [field.name for field in schema if pa.types.is_integer(field.type)]
    declared = [name for name in whole if feature(schema, name).get("_type") == "ClassLabel"]
    text = [field.name for field in schema if field.name == "label" and is_text(field.type)]
    possible = declared or [*(name for name in whole if name not in OURS), *text]
    return _column(schema, "label", asked, possible, where)


def _column(schema: pa.Schema, what: str, asked: str | None, possible: list[str], where: object) -> str:
    """`asked`, which may be any column for the label, or else the only possible one."""
    wanted, allowed = (IMAGE_TYPE, possible) if what == "image" else (LABEL_TYPE, schema.names)
    columns = "columns " + ", ".join(f"{field.name} ({field.type})" for field in schema)
    if asked is not None and asked not in allowed:
        problem = f"data.{what}_column={asked} is not a column of {wanted}"
        raise InputError(problem, where=where, got=columns, fix=nearest(asked, allowed))
    if asked is None and len(possible) != 1:
        problem = f"{'several columns' if possible else 'no column'} can be the {what}"
        fix = f"name it: data.{what}_column={possible[0] if possible else 'NAME'}"
        got, one = ", ".join(possible) or columns, f"one column of {wanted}"
        raise InputError(problem, where=where, got=got, allowed=one, fix=fix)
    return asked or possible[0]


@dataclass(frozen=True)
class ParquetImages:
    """The image column of several Parquet files, read as one."""

    files: tuple[Path, ...]
    column: str
    stored: Stored

    def read(self, rows: NDArray[np.int64], on_bad: OnBad) -> Decoded:
        """The images at `rows`, in that order."""
        return decode_all(self.encoded(rows), len(rows), self.stored, on_bad)

    def encoded(self, rows: NDArray[np.int64]) -> Iterator[list[Encoded]]:
        """The images at `rows`, batch by batch as they come in the files."""
        positions = np.argsort(rows, kind="stable")
        ascending, start = rows[positions], 0
        for file in self.files:
            with reading(file) as parquet:
                offset = start
                for batch in parquet.iter_batches(BATCH, columns=[self.column]):
                    low, high = np.searchsorted(ascending, [start, start + len(batch)])
                    chosen = ascending[low:high]
                    images = batch.column(0).take(pa.array(chosen - start)).to_pylist()
                    places = [f"{file} row {row}" for row in chosen - offset]
                    yield list(map(_encoded, positions[low:high].tolist(), places, images))
                    start += len(batch)
                check_rows(file, self.column, parquet, start - offset)

    def origin(self, rows: NDArray[np.int64]) -> Origin | None:
        """The files, and the sum of their content; None if one is not readable."""
        digest = pixels_digest(self.files, f"{self.stored} {self.column}".encode(), rows.tobytes())
        return None if digest is None else Origin(self.files, digest)

    def contents(self, rows: NDArray[np.int64]) -> list[bytes]:
        """sha256 of each encoded image at `rows`; that of nothing where there is none."""
        digests: list[bytes] = []
        for file in self.files:
            joined = remembered(file, f"rows of {self.column}", partial(self._digests, file))
            digests += [joined[start : start + 32] for start in range(0, len(joined), 32)]
        return [digests[row] for row in rows.tolist()]

    def _digests(self, file: Path) -> bytes:
        """sha256 of each encoded image of a file, one behind the other."""
        digests: list[bytes] = []
        with reading(file) as parquet:
            for batch in parquet.iter_batches(BATCH, columns=[self.column]):
                images = batch.column(0).to_pylist()
                digests += [hashlib.sha256((image or {}).get("bytes") or b"").digest() for image in images]
            check_rows(file, self.column, parquet, len(digests))
        return b"".join(digests)


def _encoded(position: int, place: str, image: dict[str, Any] | None) -> Encoded:
    image = image or {}
    path = f" ({image['path']})" if image.get("path") else ""
    return Encoded(position, place + path, image.get("bytes"))


def _check_columns(files: Sequence[Path], images: str) -> None:
    """All files of a split have the image column, and the same columns."""
    schemas = [schema_of(file) for file in files]
    for file, schema in zip(files, schemas, strict=True):
        image_column(schema, images, file)
        if set(schema.names) != set(schemas[0].names):
            got, expected = (", ".join(one.names) for one in (schema, schemas[0]))
            what, allowed = "files of a split have different columns", f"{expected}, as in {files[0]}"
            raise InputError(what, where=file, got=got, allowed=allowed)


def _labelled(labels: Sequence[FileLabels], classes: Classes, images: ParquetImages, column: str) -> Labelled:
    """The images of a split with their labels."""
    starts = np.cumsum([0, *(len(one.values) for one in labels)])
    if labels and not starts[-1]:
        what, fix = "the files of a split have no rows", "add rows, or remove the files"
        raise InputError(what, where=listed([str(file) for file in images.files]), got="0 rows", fix=fix)

    def place(row: int) -> str:
        number = int(np.searchsorted(starts, row, side="right")) - 1
        return f"{labels[number].file} row {row - starts[number]}, column {column}"

    values = [np.arange(0), *map(classes.labels, labels)]
    labelled = Labelled.all_of(images, np.concatenate(values), place)
    if column != "index" and labels:
        try:
            index = [integers(one.file, "index") for one in labels]
            return replace(labelled, index=np.concatenate(index))
        except InputError as error:
            # The user's own column of that name may hold anything, but not be unreadable.
            if error.__cause__ is not None:
                raise
    return labelled
