"""Tables of text, one row an image: CSV, TSV, JSON lines and Parquet files, read into columns."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from ffds.data.decode import opened
from ffds.data.sources.labels import FileLabels, check_rows, feature, reading, schema_of
from ffds.data.sources.splits import entries, listed
from ffds.errors import InputError, nearest

__all__ = ["IMAGE_COLUMNS", "LABEL_COLUMNS", "METADATA", "SPLIT_COLUMNS", "SUFFIXES", "Table"]
__all__ += ["read_table", "tables_in"]

IMAGE_COLUMNS = ["path", "file", "filename", "file_path", "image", "image_path", "image_file", "image_name"]
IMAGE_COLUMNS += ["img", "img_path"]
LABEL_COLUMNS = [
    "label",
    "labels",
    "label_name",
    "class",
    "class_name",
    "category",
    "category_name",
    "target",
]
SPLIT_COLUMNS = ["split", "splits", "set", "subset", "fold", "partition"]
"""The usual names of columns; letter case, spaces, `_` and `-` in them do not count."""
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Names of the table in an `imagefolder` of Hugging Face."""
DELIMITERS = ",;\t"


@dataclass(frozen=True)
class Table:
    """The columns of a table by their `names`; a column is read when it is asked for.

    Attributes:
        file: where it lies.
        names: of all columns, each once.
        numbers: of each row, its line in a file of text, or its row from 0 on in a Parquet file.
        unit: what these numbers count, ``line`` or ``row``.
        values: reads the values of a column, as they are there.
    """

    file: Path
    names: tuple[str, ...]
    numbers: Sequence[int]
    unit: str
    values: Callable[[str], list[Any]]

    def __post_init__(self) -> None:
        if twice := [name for name, count in Counter(filter(None, self.names)).items() if count > 1]:
            what, got, fix = "two columns have the same name", listed(twice), "rename or remove one"
            raise InputError(what, where=self.file, got=got, allowed="each name once", fix=fix)

    def __len__(self) -> int:
        return len(self.numbers)

    def place(self, row: int) -> str:
        """A row for a message, e.g. ``photos.csv line 7``."""
        return f"{self.file} {self.unit} {self.numbers[row]}"

    def column(self, what: str, asked: str | None, usual: Sequence[str]) -> str | None:
        """The name of a column: `asked`, or else the one that has a `usual` name; None where there is none.

        Raises:
            InputError: no column is called `asked`, or several have usual names. It names all columns, and
                the key ``data.{what}_column``.
        """
        got = f"columns {listed([name or '(no name)' for name in self.names])}"
        if asked is not None:
            if asked not in self.names:
                problem = f"data.{what}_column={asked} is no column"
                raise InputError(problem, where=self.file, got=got, fix=nearest(asked, self.names))
            return asked
        plain = {_plain(name) for name in usual}
        found = [name for name in self.names if _plain(name) in plain]
        if len(found) > 1:
            problem, fix = f"several columns can be the {what}", f"name it: data.{what}_column={found[0]}"
            raise InputError(problem, where=self.file, got=listed(found), allowed="one of them", fix=fix)
        return found[0] if found else None

    def needed(self, what: str, asked: str | None, usual: Sequence[str]) -> str:
        """As `column`, where the table is of no use without it."""
        if (found := self.column(what, asked, usual)) is None:
            got = f"columns {listed([name or '(no name)' for name in self.names])}"
            fix = f"name it, data.{what}_column=NAME; the first line of a CSV file has to name the columns"
            problem = f"no column can be the {what}"
            raise InputError(problem, where=self.file, got=got, allowed=", ".join(usual), fix=fix)
        return found

    def texts(self, column: str) -> list[str]:
        """The values of a column as text, empty where one is missing; whole numbers become text.

        Raises:
            InputError: a value is of another type.
        """
        return [self._text(value, row, column) for row, value in enumerate(self.values(column))]

    def _text(self, value: Any, row: int, column: str) -> str:
        if isinstance(value, str):
            return value
        if value is None:
            return ""
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        what, where = "a value is neither text nor a whole number", f"{self.place(row)}, column {column}"
        raise InputError(what, where=where, got=repr(value), allowed="text, or a whole number")


def read_table(file: Path) -> Table:
    """The table in a file, whose suffix says how it is written; InputError where it cannot be read."""
    reader = _READERS.get(file.suffix.casefold())
    if reader is None:
        what, allowed = "no such kind of table is read", ", ".join(SUFFIXES)
        raise InputError(what, where=file, got=file.suffix or "no suffix", allowed=allowed)
    return reader(file)


def tables_in(directory: Path) -> list[Path]:
    """The tables in a directory, in order of their names."""
    return [path for path in entries(directory) if path.suffix.casefold() in SUFFIXES]


def _csv(file: Path) -> Table:
    """Text in columns; that of commas, semicolons and tabs which the first line has most of parts them."""
    text = _text_of(file)
    delimiter = max(DELIMITERS, key=text.partition("\n")[0].count)
    # Spaces behind a delimiter do not count, so that a text behind one may stand in quotes.
    reader = csv.reader(StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    rows: list[list[str]] = []
    numbers: list[int] = []
    start = 1
    try:
        names = [name.strip() for name in next(reader, [])]
        while names and not names[-1]:
            names.pop()
        start = reader.line_num + 1
        for row in reader:
            if any(map(str.strip, row)):
                rows.append(_whole(row, names, f"{file} line {start}"))
                numbers.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        fix = 'a text with a quotation mark stands in quotes, with the mark doubled: "5"" disk"'
        raise InputError(
            "a table cannot be read", where=f"{file} line {start}", got=error, fix=fix
        ) from error
    values = {name: [row[k] for row in rows] for k, name in enumerate(names)}
    return Table(file, tuple(names), numbers, "line", values.__getitem__)


def _whole(row: list[str], names: list[str], place: str) -> list[str]:
    """A row with a value for each column; empty ones behind the last do not count."""
    if len(row) < len(names) or any(row[len(names) :]):
        what, got = "a row has another number of values than there are columns", f"{len(row)}: {listed(row)}"
        fix = "a text that holds the delimiter stands in quotes"
        raise InputError(what, where=place, got=got, allowed=f"{len(names)}: {listed(names)}", fix=fix)
    return row[: len(names)]


def _json_lines(file: Path) -> Table:
    """One JSON object a line; a column that an object lacks is missing there."""
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    for number, line in enumerate(_text_of(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_object)
            if not isinstance(row, dict):
                raise ValueError(f"no object: {line.strip()}")
        except (ValueError, RecursionError) as error:
            what, allowed = "a table cannot be read", '{"path": "a.jpg", "label": "cat"}'
            raise InputError(what, where=f"{file} line {number}", got=error, allowed=allowed) from error
        rows.append(row)
        numbers.append(number)
    names = tuple(dict.fromkeys(name for row in rows for name in row))
    return Table(file, names, numbers, "line", lambda name: [row.get(name) for row in rows])


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a name comes twice: {', '.join(name for name, _ in pairs)}")
    return found


def _parquet(file: Path) -> Table:
    """Labels of the hub's type `ClassLabel` are read as the names of their classes."""
    with reading(file) as parquet:
        names, count = tuple(parquet.schema_arrow.names), parquet.metadata.num_rows

    def values(column: str) -> list[Any]:
        if feature(schema_of(file), column).get("names"):
            labels = FileLabels.read(file, column)
            return [labels.names[label] for label in labels.values]
        with reading(file) as parquet:
            read: list[Any] = parquet.read(columns=[column]).column(0).to_pylist()
            check_rows(file, column, parquet, len(read))
        return read

    return Table(file, names, range(count), "row", values)


_READERS = {".csv": _csv, ".tsv": _csv, ".jsonl": _json_lines, ".ndjson": _json_lines, ".parquet": _parquet}
SUFFIXES = tuple(_READERS)
"""The lower-case endings of tables."""


def _text_of(file: Path) -> str:
    try:
        with opened(file) as content:
            encoded = content.read()
    except (OSError, ValueError) as error:
        raise InputError("a table cannot be read", where=file, got=error) from error
    try:
        return encoded.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wide = encoded[:2] in (b"\xff\xfe", b"\xfe\xff")
        got = "UTF-16" if wide else f"byte 0x{encoded[error.start]:02x}"
        line = encoded.count(b"\n", 0, error.start) + 1
        fix = "save it as UTF-8: in Excel as “CSV UTF-8”, elsewhere with iconv -t UTF-8"
        raise InputError(
            "a table is not UTF-8 text", where=f"{file} line {line}", got=got, fix=fix
        ) from error


def _plain(name: str) -> str:
    """The name of a column without what does not count in it.

    >>> _plain("File Name") == _plain("file_name")
    True
    """
    return "".join(name.casefold().translate(str.maketrans("_-", "  ")).split())
