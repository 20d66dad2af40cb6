"""The usual names of splits, and what a split serves as: for image folders and Parquet files alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from ffds.errors import InputError, nearest

__all__ = ["NAMES", "Splits", "choose_splits", "entries", "kind_of", "listed", "unreadable_directory"]
__all__ += ["unused_splits"]

NAMES = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval"),
}
"""The names, in any letter case, that a split of each kind may have."""
MOST_NAMED = 20


class Splits(NamedTuple):
    """The names that the splits of a dataset have there, as they are spelled; None: there is none."""

    train: str | None
    validation: str | None
    test: str | None


def kind_of(name: str) -> str | None:
    """What a split of this name is for.

    >>> kind_of("Valid"), kind_of("unlabeled")
    ('validation', None)
    """
    return next((kind for kind, names in NAMES.items() if name.casefold() in names), None)


def choose_splits(there: Iterable[str], test_split: str | None, where: Path) -> Splits:
    """Of the splits that are there: which is trained on, which is validated on and which is tested on.

    The test set is `test_split`, else the split of the kind test, else that of the kind validation. Beside
    another test set, the split of the kind validation is the validation set.

    Args:
        there: the names of all splits.
        test_split: `data.test_split`; any split that is not trained on may be named.
        where: the directory of the data, for a message.

    Raises:
        InputError: several names of one kind are there and `test_split` does not choose among them, or it is
            none of the splits there.

    >>> choose_splits(["train", "val", "test", "unlabeled"], None, Path())
    Splits(train='train', validation='val', test='test')
    >>> choose_splits(["train", "val", "test"], "val", Path())
    Splits(train='train', validation=None, test='val')
    """
    names = sorted(there)
    train, held, tested = ([name for name in names if kind_of(name) == kind] for kind in NAMES)
    if test_split is not None:
        tested = _named(test_split, [name for name in names if name not in train], where)
    elif not tested:
        tested = held
    test = _only(tested, "test", where)
    if test in held:
        held = []
    return Splits(_only(train, "train", where), _only(held, "validation", where), test)


def listed(names: Sequence[str]) -> str:
    """Names for a message; of many, the first."""
    more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def unused_splits(unused: Sequence[str], where: Path) -> Iterator[str]:
    """A sentence on what lies beside the splits that are used."""
    if unused:
        yield f"in {where} the following is not used: {listed(unused)}"


def entries(directory: Path) -> list[Path]:
    """What lies in a directory and is not hidden, in order of the names."""
    try:
        return sorted(path for path in directory.iterdir() if path.name[0] != ".")
    except OSError as error:
        unreadable_directory(error)


def unreadable_directory(error: OSError) -> NoReturn:
    """The InputError for a directory that the system does not list."""
    what, fix = "a directory cannot be read", "give the right to read it, or move it out of data.root"
    raise InputError(what, where=error.filename, got=error.strerror, fix=fix) from error


def _named(test_split: str, possible: list[str], where: Path) -> list[str]:
    """The split that is spelled like this, else those that are but for the letter case."""
    alike = [name for name in possible if name.casefold() == test_split.casefold()]
    if not alike:
        what = f"data.test_split={test_split} is no split that can be tested on"
        allowed = listed(possible) or "null: there is no split but that for training"
        raise InputError(what, where=where, allowed=allowed, fix=nearest(test_split, possible))
    return [test_split] if test_split in alike else alike


def _only(names: list[str], kind: str, where: Path) -> str | None:
    if len(names) > 1:
        what, got = f"several splits could be the {kind} set", ", ".join(names)
        fix = "leave one of them there"
        if kind != "train":
            fix += f", or choose which to test on: data.test_split={names[0]}"
        raise InputError(what, where=where, got=got, allowed="one of them", fix=fix)
    return names[0] if names else None
