"""The Parquet files of a dataset by the splits they belong to, each split whole or refused."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from ffds.data.sources.splits import MOST_NAMED, choose_splits, entries, kind_of, listed, unused_splits
from ffds.errors import InputError

__all__ = ["LAYOUT", "ParquetSplits", "find_splits", "has_training_files", "scored_files"]

LAYOUT = (
    "train-*.parquet, train.parquet or train/*.parquet, in it or in its folder data/; "
    "alike a test split (test, testing, eval) or a validation split (validation, valid, val, dev)"
)
_NAME = re.compile(
    r"(?P<prefix>.*?)(?:(?:^|[-_.])(?P<number>\d{1,18})(?:[-_]of[-_](?P<of>\d{1,18}))?(?:-[0-9a-f]{16})?)?",
    flags=re.DOTALL,
)
"""``train``, ``train-00000``, ``train-00000-of-00002``, that with the hub's digest; in a folder ``0000``."""


class ParquetSplits(NamedTuple):
    """The files of each split, none where there is no such split; `test_split` is the name of the test set.

    `notes` say what lies there and is not used, and where files might be missing.
    """

    train: tuple[Path, ...]
    validation: tuple[Path, ...]
    test: tuple[Path, ...]
    test_split: str | None
    notes: tuple[str, ...]


class _Shard(NamedTuple):
    """A file, and what its name says: the text before its number, its number, and of how many it is one."""

    file: Path
    prefix: str
    number: int | None
    of: int | None


def find_splits(root: Path, test_split: str | None) -> ParquetSplits:
    """The Parquet files of the splits in a directory and in its folder ``data/``.

    Raises:
        InputError: there is no training split, `choose_splits` cannot choose, or of a split that is used
            files are missing, there twice, or of several exports.
    """
    there = _shards(root)
    chosen = choose_splits(there, test_split, root)
    if chosen.train is None:
        got = listed([_below(root, one) for one in chain(*there.values())]) or "no Parquet file"
        raise InputError("no training images", where=root, got=got, allowed=LAYOUT)
    used = {name: shards for name, shards in there.items() if name in chosen}
    for name, shards in used.items():
        _check_whole(name, shards, root)
    train, validation, test = (
        tuple(shard.file for shard in used[name]) if name is not None else () for name in chosen
    )
    unused = [_below(root, one) for name, shards in there.items() if name not in used for one in shards]
    gaps = chain(*(_gaps(name, shards) for name, shards in used.items()))
    return ParquetSplits(train, validation, test, chosen.test, (*unused_splits(unused, root), *gaps))


def scored_files(root: Path, test_split: str | None) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """The files of the split to score a network on, and notes: the test set, else any that is there.

    Raises:
        InputError: there are no files, or several splits of which none has a usual name, or as `find_splits`.
    """
    there = _shards(root)
    chosen = choose_splits(there, test_split, root)
    name = chosen.test or chosen.train or (next(iter(there)) if len(there) == 1 else None)
    if name is None:
        got = listed([_below(root, one) for one in chain(*there.values())]) or "no Parquet file"
        raise InputError("no labelled images", where=root, got=got, allowed=LAYOUT)
    _check_whole(name, there[name], root)
    unused = [_below(root, one) for other, shards in there.items() if other != name for one in shards]
    notes = (*unused_splits(unused, root), *_gaps(name, there[name]))
    return tuple(shard.file for shard in there[name]), notes


def has_training_files(root: Path) -> bool:
    """Whether there are Parquet files for training."""
    return root.is_dir() and any(kind_of(name) == "train" for name in _shards(root))


def _shards(root: Path) -> dict[str, list[_Shard]]:
    """The Parquet files by the name of their split: that before the number, or that of their directory."""
    found = defaultdict(list)
    for folder in (root, root / "data"):
        for entry in entries(folder) if folder.is_dir() else []:
            if _is_parquet(entry):
                shard = _shard(entry)
                found[shard.prefix].append(shard)
            elif entry.is_dir() and entry != root / "data" and (kind_of(entry.name) or _readable(entry)):
                found[entry.name] += [_shard(file) for file in entries(entry) if _is_parquet(file)]
    return {name: shards for name, shards in found.items() if shards}


def _is_parquet(path: Path) -> bool:
    return path.suffix.casefold() == ".parquet" and not path.is_dir()


def _readable(directory: Path) -> bool:
    """Whether it can be listed, which matters for the directory of a split only."""
    return os.access(directory, os.R_OK | os.X_OK)


def _shard(file: Path) -> _Shard:
    name = _NAME.fullmatch(file.stem)
    prefix, number, of = name.group("prefix", "number", "of") if name else (file.stem, None, None)
    return _Shard(file, prefix, None if number is None else int(number), None if of is None else int(of))


def _check_whole(split: str, shards: list[_Shard], root: Path) -> None:
    """Refuse files of several exports, two files of one number, and a missing one of a known number."""
    got = listed([_below(root, shard) for shard in shards])
    if len({(one.file.parent, one.prefix, one.of, one.number is None) for one in shards}) > 1:
        allowed = "one file, or files in one directory that differ in their number only"
        what, fix = f"the files of the split {split} are of several exports", "leave those of one there"
        raise InputError(what, where=root, got=got, allowed=allowed, fix=fix)
    numbers = {one.number for one in shards if one.number is not None}
    if 0 < len(numbers) < len(shards):
        what, fix = f"two files of the split {split} have the same number", "leave those of one export there"
        raise InputError(what, where=root, got=got, allowed="each number once", fix=fix)
    of = shards[0].of
    first = 1 if of in numbers and 0 not in numbers else 0
    if of is not None and (len(numbers) != of or max(numbers) >= first + of):
        missing = list(islice((k for k in range(first, first + of) if k not in numbers), MOST_NAMED))
        what = f"the split {split} has {len(shards)} of {of} files"
        allowed = f"files numbered {first} to {first + of - 1}"
        fix = f"add the missing files: number {listed(list(map(str, missing)))}"
        raise InputError(what, where=root, got=got, allowed=allowed, fix=fix)


def _gaps(split: str, shards: list[_Shard]) -> Iterator[str]:
    """A sentence where numbers are missing in files that do not say how many they are."""
    numbers = sorted(one.number for one in shards if one.number is not None)
    if numbers and shards[0].of is None and (numbers[0] > 1 or numbers[-1] - numbers[0] >= len(numbers)):
        count, first, last = len(numbers), numbers[0], numbers[-1]
        yield f"the split {split} has {count} files, numbered from {first} to {last}: is one missing?"


def _below(root: Path, shard: _Shard) -> str:
    return shard.file.relative_to(root).as_posix()
