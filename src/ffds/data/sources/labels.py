"""Labels in columns of Parquet files, brought to the classes of the training set by their names."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ffds.data.source import check_labels
from ffds.data.sources.class_names import check_distinct, normalised, places
from ffds.data.sources.splits import listed
from ffds.errors import InputError

__all__ = [
    "LABEL_TYPE",
    "Classes",
    "FileLabels",
    "check_rows",
    "feature",
    "integers",
    "is_text",
    "plain",
    "read_labels",
    "reading",
    "schema_of",
]

LABEL_TYPE = "integers 0 .. C - 1, or text"
Kind = Literal["text", "numbers with names", "numbers"]
"""What the labels of a file are."""


@dataclass(frozen=True)
class FileLabels:
    """The labels of one file: places among `names`, int64 (N,); without names they are bare numbers."""

    file: Path
    column: str
    kind: Kind
    values: NDArray[np.int64]
    names: tuple[str, ...] = ()

    @classmethod
    def read(cls, file: Path, column: str) -> FileLabels:
        """Read the column; InputError where it holds no labels, or a number for which there is no name."""
        return cls.of(file, column, _values(file, column), feature(schema_of(file), column).get("names"))

    @classmethod
    def of(cls, file: Path, column: str, values: pa.ChunkedArray, named: object = None) -> FileLabels:
        """As `read`, of `plain` values that are read already, with the names of numbers that have names."""
        if is_text(values.type):
            names, codes = np.unique(values.to_numpy(zero_copy_only=False), return_inverse=True)
            return cls(file, column, "text", codes.astype(np.int64), tuple(names))
        numbers = values.to_numpy().astype(np.int64)
        if not (isinstance(named, list) and named):
            return cls(file, column, "numbers", numbers)
        check_labels(numbers, len(named), f"{file} row {{}}, column {column}".format)
        return cls(file, column, "numbers with names", numbers, tuple(map(str, named)))


@dataclass(frozen=True)
class Classes:
    """The classes of the training files: their names in label order, and what they were read from."""

    names: tuple[str, ...]
    kind: Kind

    @classmethod
    def of(cls, files: Sequence[FileLabels]) -> Classes:
        """Those of all training files together; text is sorted, and bare numbers have themselves as names.

        Raises:
            InputError: the files have different names, or two names are alike.
        """
        first = files[0]
        for one in files:
            differing = set(map(normalised, one.names)) ^ set(map(normalised, first.names))
            if first.kind == "numbers with names" and differing:
                what = "training files name different classes"
                got = f"{listed(sorted(differing))} in one of the two only"
                raise InputError(what, where=one.file, got=got, allowed=f"the classes of {first.file}")
        if first.kind == "numbers":
            count = len(np.unique(np.concatenate([one.values for one in files])))
            return cls(tuple(map(str, range(count))), first.kind)
        names = first.names if first.kind != "text" else sorted({name for one in files for name in one.names})
        check_distinct(names, first.file.parent)
        return cls(tuple(names), first.kind)

    def labels(self, one: FileLabels) -> NDArray[np.int64]:
        """The labels of a file by name; InputError where one of its images has the name of no class."""
        if self.by_number(one):
            return one.values
        used = np.unique(one.values)
        label_of = np.full(len(one.names), -1, dtype=np.int64)
        label_of[used] = places([one.names[place] for place in used], self.names, one.file)
        return label_of[one.values]

    def by_number(self, one: FileLabels) -> bool:
        """Whether the labels of a file are taken as they are, because it or the training files name nothing.

        Raises:
            InputError: the file has bare numbers, and the training files text.
        """
        if one.kind == "numbers" and self.kind == "text":
            what, where = "labels are text for training and numbers here", f"{one.file}, column {one.column}"
            raise InputError(what, where=where, got=one.kind, allowed=listed(self.names))
        unknown = self.kind == "numbers" and not set(one.names) <= set(self.names)
        return one.kind == "numbers" or (unknown and one.kind == "numbers with names")

    def notes(self, one: FileLabels) -> Iterator[str]:
        """A sentence where the labels of a file are not compared with the classes by name."""
        if self.by_number(one) and one.kind != self.kind:
            nameless = one.file.name if one.kind == "numbers" else "the training files"
            yield f"{nameless} name no classes: the labels of {one.file.name} are taken by number"


def read_labels(files: Sequence[Path], column: str) -> list[FileLabels]:
    """The labels of the files of a split; InputError where they are of different kinds."""
    read = [FileLabels.read(file, column) for file in files]
    for one in read:
        if one.kind != read[0].kind:
            what = "files of a split have labels of different kinds"
            raise InputError(what, where=one.file, got=one.kind, allowed=f"{read[0].kind}, as in {files[0]}")
    return read


def integers(file: Path, column: str) -> NDArray[np.int64]:
    """A column of whole numbers, int64 (N,)."""
    values = _values(file, column)
    if is_text(values.type):
        raise _no_labels(file, column, values)
    numbers: NDArray[np.int64] = values.to_numpy()
    return numbers


def is_text(kind: pa.DataType) -> bool:
    """Whether the values of a column of this type are text."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    types = pa.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def feature(schema: pa.Schema, column: str) -> dict[str, Any]:
    """What the hub's metadata says about a column."""
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def schema_of(file: Path) -> pa.Schema:
    """The columns of a file and their types."""
    with reading(file) as parquet:
        return parquet.schema_arrow


@contextmanager
def reading(file: Path) -> Iterator[pq.ParquetFile]:
    """An open Parquet file; InputError where it cannot be read."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # opening a pipe would wait forever
            raise OSError("not a regular file")
        with pq.ParquetFile(file) as parquet:
            yield parquet
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError("a Parquet file cannot be read", where=file, got=error) from error


def check_rows(file: Path, column: str, parquet: pq.ParquetFile, count: int) -> None:
    """Refuse a column with fewer values than the file has rows, which a damaged one may have in silence."""
    if count != (rows := parquet.metadata.num_rows):
        what, got = "a column of a Parquet file is damaged", f"{count} values in {rows} rows"
        raise InputError(what, where=f"{file}, column {column}", got=got)


def plain(file: Path, column: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whole numbers as int64, or text in its normal form; InputError for others, and where one is missing."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if values.null_count:
        missing = np.flatnonzero(values.is_null().to_numpy())
        what, where = f"{len(missing)} values are missing", f"{file}, column {column}, row {missing[0]}"
        raise InputError(what, where=where, got="null", allowed=LABEL_TYPE)
    if is_text(values.type):
        return pc.utf8_normalize(values.cast(pa.large_string()), form="NFC")
    if not pa.types.is_integer(values.type):
        raise _no_labels(file, column, values)
    try:
        return values.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise InputError("a number is too large", where=f"{file}, column {column}", got=error) from None


def _values(file: Path, column: str) -> pa.ChunkedArray:
    """A column of a file, as `plain` gives it."""
    with reading(file) as parquet:
        if column not in parquet.schema_arrow.names:
            got = ", ".join(parquet.schema_arrow.names)
            raise InputError(f"no column {column}", where=file, got=got)
        values = parquet.read(columns=[column]).column(0)
        check_rows(file, column, parquet, len(values))
        return plain(file, column, values)


def _no_labels(file: Path, column: str, values: pa.ChunkedArray) -> InputError:
    what, where = f"a column of {values.type} holds no labels", f"{file}, column {column}, row 0"
    got = repr(values[0].as_py()) if len(values) else "no rows"
    fix = "number the classes, or name another column: data.label_column=NAME"
    return InputError(what, where=where, got=got, allowed=LABEL_TYPE, fix=fix)
