"""Predictions of many files, written row by row as CSV, JSON or Parquet."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ffds.errors import InputError
from ffds.files import check_file, make_directory, written_aside
from ffds.inference.predictor import Prediction

__all__ = ["FORMATS", "Row", "Write", "check_output", "json_rows", "written_rows"]

FORMATS = (".csv", ".json", ".parquet")
ROWS = 10_000
"""Rows of a Parquet file that are written at a time."""

Write = Callable[["Row"], None]


@dataclass(frozen=True)
class Row:
    """A file with its prediction, or with what is wrong with it."""

    path: Path
    prediction: Prediction | None
    error: str | None = None

    def flat(self, top_k: int) -> dict[str, Any]:
        """One value a column: path, label, probability, the `top_k` classes if there are several, error."""
        found = self.prediction
        row: dict[str, Any] = {"path": self._path, "label": found.label if found else None}
        row["probability"] = found.probability if found else None
        for place in range(top_k if top_k > 1 else 0):
            name, value = found.top[place] if found and place < len(found.top) else (None, None)
            row |= {f"class_{place + 1}": name, f"probability_{place + 1}": value}
        return row | {"error": self.error}

    def nested(self) -> dict[str, Any]:
        """For JSON: path, label, probability, the list `top` of classes and probabilities, error."""
        row = self.flat(1)
        pairs = self.prediction.top if self.prediction else ()
        top = [{"class": name, "probability": value} for name, value in pairs]
        return {**row, "top": top, "error": row["error"]}

    @property
    def _path(self) -> str:
        return os.fsencode(self.path).decode("utf-8", "replace")


def check_output(file: str) -> None:
    """Refuse a file of predictions in another format, or where it cannot be written."""
    check_file(file, "--out FILE")
    if Path(file).suffix.lower() not in FORMATS:
        allowed = ", ".join(f"FILE{suffix}" for suffix in FORMATS)
        raise InputError("predictions have no such format", where="--out FILE", got=file, allowed=allowed)


@contextmanager
def written_rows(file: Path, top_k: int) -> Iterator[Write]:
    """A function that writes a row to a file in the format of its name, which is there once all are."""
    make_directory(file.parent, "the predictions", "--out FILE")
    writers = {".csv": _csv_rows, ".json": _json_file, ".parquet": _parquet_rows}
    with written_aside(file) as aside, writers[file.suffix.lower()](aside, top_k) as write:
        yield write


@contextmanager
def json_rows(file: IO[str]) -> Iterator[Write]:
    """A function that writes a row of a list in JSON."""
    started = False

    def write(row: Row) -> None:
        nonlocal started
        print("[\n" if not started else ",\n", json.dumps(row.nested()), sep="", end="", file=file)
        started = True

    try:
        yield write
    finally:
        print("\n]" if started else "[]", file=file)


@contextmanager
def _json_file(file: Path, _: int) -> Iterator[Write]:
    with file.open("w", encoding="utf-8") as opened, json_rows(opened) as write:
        yield write


@contextmanager
def _csv_rows(file: Path, top_k: int) -> Iterator[Write]:
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, list(Row(Path(), None).flat(top_k)), lineterminator="\n")
        writer.writeheader()
        yield lambda row: writer.writerow(row.flat(top_k))


@contextmanager
def _parquet_rows(file: Path, top_k: int) -> Iterator[Write]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = Row(Path(), None).flat(top_k)
    kinds = {name: pa.float32() if name.startswith("probability") else pa.string() for name in names}
    schema, waiting = pa.schema(kinds), []
    with pq.ParquetWriter(file, schema) as writer:

        def write(row: Row) -> None:
            waiting.append(row.flat(top_k))
            if len(waiting) == ROWS:
                writer.write_table(pa.Table.from_pylist(waiting, schema))
                waiting.clear()

        yield write
        writer.write_table(pa.Table.from_pylist(waiting, schema))
