"""Images in Parquet files in the hub's layout, and pre-cut packs, which also carry `lt_rank`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ffds.data.decode import BATCH, Encoded, Stored, decode_all, pixels_digest, remembered
from ffds.data.source import Decoded, Labelled, OnBad, Origin, Source, existing_root
from ffds.errors import InputError, nearest
from ffds.recipes.schema import Data

__all__ = ["LAYOUT", "ParquetImages", "image_column", "image_mode", "open_parquet", "split_files"]

LAYOUT = "train-*.parquet and test-*.parquet (or validation-*, val-*), in it or in its folder data/"
OURS = ("index", "lt_rank")
"""Integer columns of a pack that are no labels."""
IMAGE_TYPE, LABEL_TYPE = "struct<bytes, path>", "integers 0 .. C - 1"


def open_parquet(data: Data) -> Source:
    """The source `parquet`: any directory in the hub's layout.

    Images are stored as they are, or, where `data.image_size` is given, as squares of side
    `data.eval_resize` or else `data.image_size`. A train file with a column `lt_rank` is a pre-cut pack:
    its tail is cut by that rank, whatever `data.seed` says. Without a test set the ranks are not used.
    """
    root = existing_root(data, LAYOUT)
    train_files, test_files = split_files(root, "train"), split_files(root, "test", "validation", "val")
    if not train_files:
        raise InputError("no training images", where=root, allowed=LAYOUT)
    schema = _schema(train_files[0])
    images = image_column(schema, data.image_column, train_files[0])
    label = _label_column(schema, data.label_column, train_files[0])
    stored = Stored(data.eval_resize or data.image_size, image_mode(schema, images))
    train = _labelled(train_files, images, label, stored)
    names = _feature(schema, label).get("names") or range(len(np.unique(train.labels)))
    ranked = "lt_rank" in schema.names and bool(test_files)
    return Source(
        description=f"Parquet files in {root}",
        class_names=tuple(map(str, names)),
        train=train,
        test=_labelled(test_files, images, label, stored) if test_files else train.take(np.arange(0)),
        cut_test=not test_files,
        ranks=np.concatenate(_integers(train_files, "lt_rank")) if ranked else None,
    )


def split_files(root: Path, *splits: str) -> tuple[Path, ...]:
    """The shards of the first of these splits that has any, in order."""
    for split in splits:
        for folder in (root, root / "data"):
            files = [*folder.glob(f"{split}-*.parquet"), *folder.glob(f"{split}.parquet")]
            if files:
                return tuple(sorted(files))
    return ()


def image_column(schema: pa.Schema, asked: str | None, where: object) -> str:
    """The image column: `asked`, or else the only one of type struct<bytes, path>."""
    structs = [field for field in schema if pa.types.is_struct(field.type)]
    possible = [field.name for field in structs if field.type.get_field_index("bytes") >= 0]
    return _column(schema, "image", asked, possible, where)


def image_mode(schema: pa.Schema, column: str) -> Literal["RGB", "L"]:
    """The channels that the hub's metadata asks for: ``L``, one, or ``RGB``, three, where it does not say."""
    return "L" if _feature(schema, column).get("mode") == "L" else "RGB"


def _label_column(schema: pa.Schema, asked: str | None, where: object) -> str:
    """`asked`, or else the only column declared as class label, or else the only one of integers."""
    integers = [field.name for field in schema if pa.types.is_integer(field.type)]
    declared = [name for name in integers if _feature(schema, name).get("_type") == "ClassLabel"]
    possible = declared or [name for name in integers if name not in OURS]
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


def _feature(schema: pa.Schema, column: str) -> dict[str, Any]:
    """What the hub's metadata says about a column."""
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
    except (KeyError, TypeError, ValueError):
        return {}
    return feature if isinstance(feature, dict) else {}


@dataclass(frozen=True)
class ParquetImages:
    """The image column of several Parquet files, read as one."""

    files: tuple[Path, ...]
    column: str
    stored: Stored

    def read(self, rows: NDArray[np.int64], on_bad: OnBad) -> Decoded:
        """The images at `rows`, in that order."""
        return decode_all(self._encoded(rows), len(rows), self.stored, on_bad)

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
        with _reading(file) as parquet:
            for batch in parquet.iter_batches(BATCH, columns=[self.column]):
                images = batch.column(0).to_pylist()
                digests += [hashlib.sha256((image or {}).get("bytes") or b"").digest() for image in images]
        return b"".join(digests)

    def _encoded(self, rows: NDArray[np.int64]) -> Iterator[list[Encoded]]:
        """The images at `rows`, batch by batch as they come in the files."""
        positions = np.argsort(rows, kind="stable")
        ascending, start = rows[positions], 0
        for file in self.files:
            with _reading(file) as parquet:
                offset = start
                for batch in parquet.iter_batches(BATCH, columns=[self.column]):
                    low, high = np.searchsorted(ascending, [start, start + len(batch)])
                    chosen = ascending[low:high]
                    images = batch.column(0).take(pa.array(chosen - start)).to_pylist()
                    places = [f"{file} row {row}" for row in chosen - offset]
                    yield list(map(_encoded, positions[low:high].tolist(), places, images))
                    start += len(batch)


def _encoded(position: int, place: str, image: dict[str, Any] | None) -> Encoded:
    image = image or {}
    path = f" ({image['path']})" if image.get("path") else ""
    return Encoded(position, place + path, image.get("bytes"))


def _labelled(files: tuple[Path, ...], images: str, label: str, stored: Stored) -> Labelled:
    for file in files:
        image_column(_schema(file), images, file)
    labels = _integers(files, label)
    starts = np.cumsum([0, *map(len, labels)])

    def place(row: int) -> str:
        number = int(np.searchsorted(starts, row, side="right")) - 1
        return f"{files[number]} row {row - starts[number]}, column {label}"

    labelled = Labelled.all_of(ParquetImages(files, images, stored), np.concatenate(labels), place)
    if label != "index":
        try:
            return replace(labelled, index=np.concatenate(_integers(files, "index")))
        except InputError as error:
            # The user's own column of that name may hold anything, but not be unreadable.
            if error.__cause__ is not None:
                raise
    return labelled


def _integers(files: tuple[Path, ...], column: str) -> list[NDArray[np.int64]]:
    """A column of each file."""
    parts = []
    for file in files:
        with _reading(file) as parquet:
            if column not in parquet.schema_arrow.names:
                got = ", ".join(parquet.schema_arrow.names)
                raise InputError(f"no column {column}", where=file, got=got)
            values, where = parquet.read(columns=[column]).column(0), f"{file}, column {column}"
        if values.null_count:
            missing = np.flatnonzero(values.is_null().to_numpy())
            what = f"{len(missing)} values are missing"
            raise InputError(what, where=f"{where}, row {missing[0]}", got="null", allowed=LABEL_TYPE)
        if not pa.types.is_integer(values.type):
            what = f"a column of {values.type} holds no labels"
            got = repr(values[0].as_py()) if len(values) else "no rows"
            fix = "number the classes, or name another column: data.label_column=NAME"
            raise InputError(what, where=f"{where}, row 0", got=got, allowed=LABEL_TYPE, fix=fix)
        parts.append(values.to_numpy().astype(np.int64))
    return parts


def _schema(file: Path) -> pa.Schema:
    with _reading(file) as parquet:
        return parquet.schema_arrow


@contextmanager
def _reading(file: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(file) as parquet:
            yield parquet
    except (pa.ArrowException, OSError) as error:
        raise InputError("a Parquet file cannot be read", where=file, got=error) from error
