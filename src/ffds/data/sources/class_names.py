"""Names of classes, which say across files and splits which class is which."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from ffds.data.sources.splits import listed
from ffds.errors import InputError, nearest

__all__ = ["check_distinct", "normalised", "places"]


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
