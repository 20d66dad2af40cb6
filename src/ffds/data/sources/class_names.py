"""Names of classes, which say across files and splits which class is which."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ffds.data.sources.splits import listed
from ffds.errors import InputError, nearest

__all__ = ["check_distinct", "labels_among", "normalised", "places"]


def normalised(name: str) -> str:
    r"""The form in which names are compared: Unicode NFC, so that both spellings of an accent are the same.

    >>> normalised("cafe\u0301") == "caf\u00e9"
    True
    """
    return unicodedata.normalize("NFC", name)


def check_distinct(names: Sequence[str], where: object) -> None:
    """Refuse classes of the training set whose names differ in nothing but Unicode form or outer space."""
    known: dict[str, str] = {}
    for name in names:
        key = normalised(name).strip()
        if key in known:
            what, got = "two classes have the same name", f"{known[key]!a}, {name!a}"
            raise InputError(what, where=where, got=got, fix="make them one class, or rename one")
        known[key] = name


def places(names: Sequence[str], known: Sequence[str], where: object) -> list[int]:
    """The label of each of these names: its place among the `known` names of the training classes.

    Raises:
        InputError: one of them is the name of no training class, if only for its case or outer space.
    """
    label_of = {normalised(name): label for label, name in enumerate(known)}
    for name in names:
        if normalised(name) not in label_of:
            what, fix = f"class {name!r} is no class of the training set", nearest(name, known)
            raise InputError(what, where=where, allowed=listed(known), fix=fix)
    return [label_of[normalised(name)] for name in names]


def labels_among(
    known: Sequence[str], names: Sequence[str], labels: NDArray[np.int64], where: object
) -> NDArray[np.int64]:
    """Labels among `names` as labels among the `known` names, int64 (N,); names without a label do not count.

    Where one side has numbers in place of names, and both have as many classes, number k is the other side's
    class k: Parquet files may have no names.

    Raises:
        InputError: a name is not known.

    >>> labels_among(["cat", "dog", "owl"], ["owl", "cat"], np.array([0, 1, 1]), "here").tolist()
    [2, 0, 0]
    """
    numbers = {str(number) for number in range(len(known))}
    if set(names) == numbers != set(known):
        return np.array([int(name) for name in names])[labels]
    if set(known) == numbers != set(names) and len(names) == len(known):
        return np.array([known.index(str(label)) for label in range(len(names))])[labels]
    used = np.unique(labels)
    label_of = np.zeros(len(names), dtype=np.int64)
    label_of[used] = places([names[label] for label in used], known, where)
    return label_of[labels]
