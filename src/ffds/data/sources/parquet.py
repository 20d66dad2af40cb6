"""Images in Parquet files in the hub's layout, and pre-cut packs, which also carry `lt_rank`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ffds.data.decode import BATCH, Encoded, Stored, decode_all, pixels_digest
from ffds.data.source import Decoded, Labelled, OnBad, Origin, Source, existing_root
from ffds.errors import InputError, nearest
from ffds.recipes.schema import Data

__all__ = [
    "LAYOUT",
    "ParquetImages",
    "class_names",
    "image_column",
    "image_mode",
    "label_column",
    "open_parquet",
    "split_files",
]

OURS = ("index", "lt_rank")


def image_column(schema: pa.Schema, asked: str | None, where: object) -> str:
    """The image column: `asked`, or else the only one of type struct<bytes, path>.

    Raises:
        InputError: there is no such column, or there are several.
    """
    images = [field.name for field in schema if _is_image(field.type)]
    if asked is not None:
        return _asked(
            schema, asked, images, "data.image_column", "struct<bytes: binary, path: string>", where
        )
    return _only(schema, images, "image", where)


def label_column(schema: pa.Schema, asked: str | None, where: object) -> str:
    """The label column: `asked`, or else the only one declared as class label, or else the only integer one.

    Raises:
        InputError: there is no such column, or there are several.
    """
    integers = [field.name for field in schema if pa.types.is_integer(field.type)]
    declared = [name for name in integers if _feature(schema, name).get("_type") == "ClassLabel"]
    if asked is not None:
        return _asked(schema, asked, schema.names, "data.label_column", "integers", where)
    return _only(schema, declared or [name for name in integers if name not in OURS], "label", where)


def class_names(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """The class names that the hub's metadata gives for a label column, in label order; None without."""
    names = _feature(schema, column).get("names")
    return tuple(str(name) for name in names) if isinstance(names, list) and names else None


def image_mode(schema: pa.Schema, column: str) -> Literal["RGB", "L"]:
    """The channels that the hub's metadata asks for: ``L``, one, or ``RGB``, three, where it does not say."""
    return "L" if _feature(schema, column).get("mode") == "L" else "RGB"


def _feature(schema: pa.Schema, column: str) -> dict[str, Any]:
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
    except (KeyError, TypeError, ValueError):
        return {}
    return feature if isinstance(feature, dict) else {}


def _is_image(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)


def _asked(schema: pa.Schema, asked: str, possible: list[str], key: str, allowed: str, where: object) -> str:
    if asked not in possible:
        raise InputError(
            f"{key}={asked} is not a column of {allowed}",
            where=where,
            got=f"columns {_described(schema)}",
            fix=nearest(asked, possible),
        )
    return asked


def _only(schema: pa.Schema, found: list[str], what: str, where: object) -> str:
    if len(found) != 1:
        raise InputError(
            f"{'several columns' if found else 'no column'} can be the {what}",
            where=where,
            got=", ".join(found) if found else f"columns {_described(schema)}",
            allowed="one struct<bytes, path>" if what == "image" else "one column of integers 0 .. C - 1",
            fix=f"name it: data.{what}_column={found[0] if found else 'NAME'}",
        )
    return found[0]


def _described(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)


LAYOUT = "train-*.parquet and test-*.parquet (or validation-*, val-*), in it or in its folder data/"


def split_files(root: Path, *splits: str) -> tuple[Path, ...]:
    """The shards of the first of these splits that has any, in order."""
    for split in splits:
        for folder in (root, root / "data"):
            found = [*folder.glob(f"{split}-*.parquet"), *folder.glob(f"{split}.parquet")]
            if found:
                return tuple(sorted(found))
    return ()


def open_parquet(data: Data) -> Source:
    """The source `parquet`: any directory in the hub's layout.

    Images are stored as they are, or, where `data.image_size` is given, as squares of side
    `data.eval_resize` or else `data.image_size`. A train file with a column `lt_rank` is a pre-cut pack:
    its tail is cut by that rank, whatever `data.seed` says. Without a test set the ranks are not used.

    Raises:
        InputError: files or columns are missing, ambiguous or broken; a label is missing or no integer.
    """
    root = existing_root(data, LAYOUT)
    train_files, test_files = split_files(root, "train"), split_files(root, "test", "validation", "val")
    if not train_files:
        raise InputError("no training images", where=root, allowed=LAYOUT)
    schema = _schema(train_files[0])
    images = image_column(schema, data.image_column, train_files[0])
    label = label_column(schema, data.label_column, train_files[0])
    stored = Stored(data.eval_resize or data.image_size, image_mode(schema, images))

    train = _labelled(train_files, images, label, stored)
    classes = class_names(schema, label) or tuple(str(c) for c in range(len(np.unique(train.labels))))
    ranked = "lt_rank" in schema.names and bool(test_files)
    return Source(
        description=f"Parquet files in {root}",
        class_names=classes,
        train=train,
        test=_labelled(test_files, images, label, stored) if test_files else train.none(),
        cut_test=not test_files,
        ranks=_integers(train_files, "lt_rank") if ranked else None,
    )


@dataclass(frozen=True)
class ParquetImages:
    """The image column of several Parquet files, read as one."""

    files: tuple[Path, ...]
    column: str
    stored: Stored

    def read(self, rows: NDArray[np.int64], on_bad: OnBad) -> Decoded:
        """The images at `rows`, in that order; row groups without any of them are not read."""
        return decode_all(self._encoded(rows), len(rows), self.stored, on_bad)

    def origin(self, rows: NDArray[np.int64]) -> Origin | None:
        """The files, and the sum of their content; None if one is not readable."""
        digest = pixels_digest(self.files, f"{self.stored} {self.column}".encode(), rows.tobytes())
        return None if digest is None else Origin(self.files, digest)

    def _encoded(self, rows: NDArray[np.int64]) -> Iterator[Sequence[Encoded]]:
        positions = np.argsort(rows, kind="stable")
        wanted = rows[positions]
        offset = 0
        for file in self.files:
            with _reading(file) as parquet:
                for start, batch in _batches(parquet, self.column, wanted - offset):
                    low, high = np.searchsorted(wanted - offset, [start, start + len(batch)])
                    within = wanted[low:high] - offset
                    chosen = batch.take(pa.array(within - start)).to_pylist()
                    yield [
                        _encoded(position, file, row, image)
                        for position, row, image in zip(
                            positions[low:high].tolist(), within.tolist(), chosen, strict=True
                        )
                    ]
                offset += parquet.metadata.num_rows


def _batches(
    parquet: pq.ParquetFile, column: str, wanted: NDArray[np.int64]
) -> Iterator[tuple[int, pa.Array]]:
    """The batches of the row groups that hold a wanted row, each with its first row."""
    sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
    for group, (first, stop) in enumerate(pairwise(accumulate(sizes, initial=0))):
        low, high = np.searchsorted(wanted, [first, stop])
        if low == high:
            continue
        start = first
        for batch in parquet.iter_batches(BATCH, row_groups=[group], columns=[column]):
            yield start, batch.column(0)
            start += len(batch)


def _encoded(position: int, file: Path, row: int, image: dict[str, Any] | None) -> Encoded:
    image = image or {}
    path = f" ({image['path']})" if image.get("path") else ""
    return Encoded(position, f"{file} row {row}{path}", image.get("bytes"))


def _labelled(files: tuple[Path, ...], images: str, label: str, stored: Stored) -> Labelled:
    for file in files:
        image_column(_schema(file), images, file)
    pixels = ParquetImages(files, images, stored)
    labelled = Labelled.all_of(pixels, _integers(files, label), _Place(files, label))
    if label != "index" and all(map(_numbered, files)):
        return replace(labelled, index=_integers(files, "index"))
    return labelled


def _numbered(file: Path) -> bool:
    """Whether its column `index` can be the original order: a user's own may hold anything."""
    with _reading(file) as parquet:
        if "index" not in parquet.schema_arrow.names:
            return False
        values = parquet.read(columns=["index"]).column(0)
    return bool(pa.types.is_integer(values.type)) and not values.null_count


@dataclass(frozen=True)
class _Place:
    files: tuple[Path, ...]
    label: str

    def __call__(self, row: int) -> str:
        for file in self.files:
            with _reading(file) as parquet:
                if row < parquet.metadata.num_rows:
                    return f"{file} row {row}, column {self.label}"
                row -= parquet.metadata.num_rows
        raise IndexError(row)


def _integers(files: tuple[Path, ...], column: str) -> NDArray[np.int64]:
    parts = []
    for file in files:
        if column not in _schema(file).names:
            raise InputError(f"no column {column}", where=file, got=", ".join(_schema(file).names))
        with _reading(file) as parquet:
            values = parquet.read(columns=[column]).column(0)
        _check_integers(values, f"{file}, column {column}")
        parts.append(values.to_numpy().astype(np.int64))
    return np.concatenate(parts)


def _check_integers(values: pa.ChunkedArray, where: str) -> None:
    # Asking for the count first spares the import of all of Arrow's functions.
    if values.null_count:
        missing = np.flatnonzero(values.is_null().to_numpy())
        raise InputError(
            f"{len(missing)} values are missing",
            where=f"{where}, row {missing[0]}",
            got="null",
            allowed="integers 0 .. C - 1",
        )
    if not pa.types.is_integer(values.type):
        raise InputError(
            f"a column of {values.type} holds no labels",
            where=f"{where}, row 0",
            got=repr(values[0].as_py()) if len(values) else "no rows",
            allowed="integers 0 .. C - 1",
            fix="number the classes, or name another column: data.label_column=NAME",
        )


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
