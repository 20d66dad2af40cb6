"""A manifest: a table that names the file of each image and its class, and possibly its split."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ffds.data.decode import Stored
from ffds.data.source import Labelled, Source, existing_root, root_path
from ffds.data.sources.class_names import check_distinct, normalised, places
from ffds.data.sources.folder import labelled_files
from ffds.data.sources.splits import NAMES, choose_splits, entries, kind_of, listed, unused_splits
from ffds.data.sources.tables import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    METADATA,
    SPLIT_COLUMNS,
    SUFFIXES,
    read_table,
    tables_in,
)
from ffds.errors import InputError
from ffds.recipes.schema import Data

__all__ = ["is_manifest", "open_labelled", "open_manifest"]

LAYOUT = (
    f"a table ({', '.join(SUFFIXES)}) with columns path and label and possibly split, or a directory "
    "with one of metadata.csv, metadata.jsonl and metadata.parquet, in it or in its train/, test/ and so on"
)


@dataclass(frozen=True)
class _Row:
    """A row: the path as it is written, its file, the class, the split (None: there are none), its place."""

    text: str
    file: Path
    label: str
    split: str | None
    place: str


def open_manifest(data: Data) -> Source:
    """The source `manifest`: classes are sorted by name, or by number where all names are whole numbers.

    Images are stored as squares, as those of the source `folder`. Splits are named by a column, else by the
    directories that hold the metadata, else by the first directory of all paths, if one of these is for
    training. Without splits the test set is cut from each class.
    """
    root = _root(data)
    rows, notes = _in_splits(list(_rows(root, data)), data, root)
    names = {row.split for row in rows if row.split is not None}
    splits = choose_splits(names, data.test_split if names else None, root)
    trained, held, tested = ([row for row in rows if row.split == name] for name in splits)
    if not names:
        trained, held, tested = rows, [], []
    _check([*trained, *held, *tested], data, root)
    classes = _classes(trained, root)
    stored = Stored.of(data)
    return Source(
        f"manifest {root}",
        classes,
        train=_labelled(trained, classes, stored),
        test=_labelled(tested, classes, stored),
        validation=_labelled(held, classes, stored) if held else None,
        cut_test=splits.test is None,
        test_split=splits.test,
        notes=(*notes, *unused_splits(sorted(names - set(splits)), root)),
    )


def open_labelled(data: Data) -> Source:
    """Images to score: those of the test split, else of the validation or the training split, else all."""
    root = _root(data)
    rows, notes = _in_splits(list(_rows(root, data)), data, root, scored=True)
    names = {row.split for row in rows if row.split is not None}
    splits = choose_splits(names, data.test_split, root)
    if name := splits.test or splits.train:
        rows = [row for row in rows if row.split == name]
        notes = (*notes, *unused_splits(sorted(names - {name}), root))
    _check(rows, data, root)
    classes = _classes(rows, root)
    images = _labelled(rows, classes, Stored.of(data))
    described = f"the split {name} of manifest {root}" if name else f"manifest {root}"
    return Source(described, classes, images.take(np.arange(0)), images, notes=notes)


def is_manifest(root: Path) -> bool:
    """Whether a manifest lies there: a file, or a directory with metadata in it or in one of its splits."""
    if not root.is_dir():
        return root.is_file()
    splits = (place for place in entries(root) if place.is_dir() and kind_of(place.name))
    return any((place / name).is_file() for place in (root, *splits) for name in METADATA)


def _root(data: Data) -> Path:
    """The table, or the directory of the metadata."""
    root = None if data.root is None else root_path(data.root)
    if root is not None and root.exists() and not root.is_dir():
        return root
    return existing_root(data, LAYOUT, "name the table: data.root=FILE")


def _rows(root: Path, data: Data) -> Iterator[_Row]:
    """All rows of all tables, in order."""
    if not root.is_dir():
        yield from _rows_of(root, None, data)
    elif file := _metadata(root):
        yield from _rows_of(file, None, data, within=root)
    else:
        parts = [
            (place.name, file) for place in entries(root) if place.is_dir() and (file := _metadata(place))
        ]
        if not parts:
            tables = [file.name for file in tables_in(root)]
            fix = (
                f"name the table: data.root={root / tables[0]}"
                if tables
                else "name the table: data.root=FILE"
            )
            got = listed(tables) or "no table"
            raise InputError("no metadata", where=root, got=got, allowed=LAYOUT, fix=fix)
        for split, file in parts:
            yield from _rows_of(file, split, data, within=root)


def _metadata(directory: Path) -> Path | None:
    """The metadata in a directory; InputError where there are several."""
    found = [name for name in METADATA if (directory / name).exists()]
    if len(found) > 1:
        what, fix = "several tables could be the metadata", "leave one, or name the table: data.root=FILE"
        raise InputError(what, where=directory, got=listed(found), allowed="one of them", fix=fix)
    return directory / found[0] if found else None


def _rows_of(file: Path, split: str | None, data: Data, within: Path | None = None) -> Iterator[_Row]:
    """The rows of one table, whose paths are relative to its directory and must not lead out of `within`."""
    table = read_table(file)
    paths = table.texts(table.needed("image", data.image_column, IMAGE_COLUMNS))
    labels = table.texts(table.needed("label", data.label_column, LABEL_COLUMNS))
    column = table.column("split", data.split_column, SPLIT_COLUMNS) if split is None else None
    splits = [split] * len(table) if column is None else [text.strip() for text in table.texts(column)]
    for number, (text, label, one) in enumerate(zip(paths, labels, splits, strict=True)):
        place, found = table.place(number), _file(file.parent, text)
        if within is not None and not _plain(found).is_relative_to(_plain(within)):
            what, fix = "a path leads out of the directory of the data", f"name the table: data.root={file}"
            raise InputError(what, where=place, got=text, fix=fix)
        if one == "":
            what = "a row has no split"
            raise InputError(what, where=place, got=f"column {column}", fix="name its split in each row")
        yield _Row(text, found, normalised(label).strip(), one, place)


def _file(directory: Path, text: str) -> Path:
    """The file that a row names, with the other slash or in another Unicode form if only that is there."""
    slashed = text.replace("\\", "/")
    spellings = [text, slashed, *(unicodedata.normalize(form, slashed) for form in ("NFC", "NFD"))]
    return next((directory / one for one in spellings if _exists(directory / one)), directory / text)


def _in_splits(
    rows: list[_Row], data: Data, root: Path, scored: bool = False
) -> tuple[list[_Row], tuple[str, ...]]:
    """The rows with the splits that count, and notes; in none of the rows a split if there are no splits.

    Where no split has a usual name, they are folds: that of `data.test_split` is tested on, the others are
    trained on. Rows to be `scored` need no split for training.
    """
    names = {row.split for row in rows if row.split is not None}
    kinds = set(map(kind_of, names))
    if not names:
        firsts = [Path(row.text.replace("\\", "/")).parts[:1] for row in rows]
        named = {first[0] if first else "" for first in firsts}
        if not rows or None in map(kind_of, named) or "train" not in map(kind_of, named):
            return rows, ()
        note = f"the splits are the first directories of the paths: {listed(sorted(named))}"
        return [replace(row, split=first[0]) for row, first in zip(rows, firsts, strict=True)], (note,)
    if "train" in kinds or (scored and kinds != {None}):
        return rows, ()
    if kinds == {None} and data.test_split is not None:
        test = choose_splits(names, data.test_split, root).test
        return [row if row.split == test else replace(row, split="train") for row in rows], ()
    first = sorted(names)[0]
    if kinds == {None} and (scored or (data.split_column is None and not root.is_dir())):
        fold = f"data.test_split={first} would test on its rows {first} and train on the others"
        note = f"the column of splits is not used, as it names none ({listed(sorted(names))}); {fold}"
        return [replace(row, split=None) for row in rows], (note,)
    what, allowed = "no split is for training", ", ".join(NAMES["train"])
    fix = f"for folds name the one to test on: data.test_split={first}" if kinds == {None} else ""
    raise InputError(what, where=root, got=listed(sorted(names)), allowed=allowed, fix=fix)


def _check(rows: Sequence[_Row], data: Data, root: Path) -> None:
    """Refuse rows without a path or a class, files that are not there, and two rows of one file."""
    if not rows:
        raise InputError("a manifest has no rows", where=root, got="0 rows", allowed=LAYOUT)
    _refuse("no path", [row for row in rows if not row.text.strip()], "name a file in each row")
    _refuse("no label", [row for row in rows if not row.label], "name a class in each row")
    if data.on_bad_image == "stop":
        missing = [row for row in rows if not _exists(row.file)]
        fix = "paths are relative to the directory of the table, or absolute"
        _refuse("a file that is not there", missing, f"{fix}; or leave them out: data.on_bad_image=skip")
    first: dict[Path, _Row] = {}
    for row in rows:
        if (other := first.setdefault(_plain(row.file), row)) is not row:
            what, got = "two rows name the same file", f"{row.text}, as in {other.place}"
            raise InputError(what, where=row.place, got=got, fix="leave one row of each file")


def _plain(file: Path) -> Path:
    """The absolute path of a file without ``..``; links are not followed."""
    return Path(os.path.normpath(file.absolute()))


def _exists(file: Path) -> bool:
    try:
        return file.exists()
    except OSError:  # a name that is too long
        return False


def _refuse(what: str, rows: Sequence[_Row], fix: str) -> None:
    if rows:
        many = f"a row has {what}" if len(rows) == 1 else f"{len(rows):,} rows have {what}, the first of them"
        raise InputError(many, where=rows[0].place, got=rows[0].file, fix=fix)


def _classes(rows: Sequence[_Row], root: Path) -> tuple[str, ...]:
    """The classes of these rows, in label order."""
    names = {row.label for row in rows}
    numbers = all(re.fullmatch(r"0|[1-9]\d{0,17}", name, re.ASCII) for name in names)
    classes = tuple(sorted(names, key=int if numbers else None))
    check_distinct(classes, root)
    return classes


def _labelled(rows: Sequence[_Row], classes: Sequence[str], stored: Stored) -> Labelled:
    label_of = {name: label for label, name in enumerate(classes)}
    for row in rows:
        if row.label not in label_of:
            places([row.label], classes, row.place)
    return labelled_files(((row.file, label_of[row.label]) for row in rows), stored)
