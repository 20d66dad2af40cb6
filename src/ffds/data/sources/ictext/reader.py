"""Reads ICText-LT: one image file for each character, and lists of what they show."""

from __future__ import annotations

import json
import string
from pathlib import Path

import numpy as np

from ffds.data.decode import Stored
from ffds.data.long_tail import long_tail_indices
from ffds.data.source import Labelled, Source, existing_root, root_path
from ffds.data.sources.folder import labelled_files, read_text
from ffds.data.sources.ictext.layout import CHARACTERS, INDEX, LAYOUT, MARKER, RENDERED
from ffds.errors import InputError
from ffds.recipes.schema import Data

__all__ = ["open_ictext", "open_sample"]

FOLDERS = ("ictext-lt-18", "ictext2021")
FIX = (
    "ICText-LT is given under a signed agreement only (docs/ictext.md); give its directory: data.root=DIR; "
    "or take look-alikes: data.name=ictext-sample"
)


def open_ictext(data: Data) -> Source:
    """The source `ictext`: `data.root`, or its folder ``ictext-lt-18/`` or ``ictext2021/``.

    Images are padded with black to squares of side `data.eval_resize` or else `data.image_size`.
    """
    root = existing_root(data, LAYOUT, FIX)
    places = [root, *(root / folder for folder in FOLDERS)]
    place = next((place for place in places if (place / INDEX).is_file()), None)
    if place is None:
        raise InputError(f"no ICText-LT: {INDEX} is missing", where=root, allowed=LAYOUT, fix=FIX)
    return _read_layout(place, data)


def open_sample(data: Data) -> Source:
    """The source `ictext-sample`, rendered once into ``ictext-sample-seed<data.seed>/`` in `data.root`."""
    if data.root is None:
        fix = "give a directory to render into: data.root=DIR"
        raise InputError("ictext-sample needs data.root", got="null", fix=fix)
    from ffds.data.sources.ictext.render import rendered_sample

    return _read_layout(rendered_sample(root_path(data.root), data.seed), data)


def _read_layout(root: Path, data: Data) -> Source:
    """36 classes, digits and upper-case letters by falling frequency, as the released loader reads them.

    Lower-case letters are left out, and the test set is cut to as many images of each class as its smallest
    class has, by the reference shuffle with seed 0.
    """
    label_of = _labels(root / INDEX)
    names = tuple(sorted(CHARACTERS, key=lambda character: label_of[character]))
    stored = Stored.of(data, fit="pad")
    train, test = (_split(root, split, label_of, stored) for split in ("train", "val"))
    description = f"{RENDERED}: {root}" if (root / MARKER).is_file() else f"ICText-LT in {root}"
    return Source(description, names, train, _balanced(test, names, root / "val"))


def _labels(file: Path) -> dict[str, int]:
    try:
        label_of = json.loads(read_text(file, LAYOUT))
    except ValueError as error:
        raise InputError("a file of ICText-LT is not JSON", where=file, got=error) from error
    pairs = label_of.items() if isinstance(label_of, dict) else [("", label_of)]
    known = {*CHARACTERS, *string.ascii_lowercase}
    if any(character not in known or type(label) is not int for character, label in pairs):
        allowed = 'an object with one character each: {"0": 0, …}'
        raise InputError("not the characters of ICText-LT", where=file, allowed=allowed)
    if sorted(label_of.get(character, -1) for character in CHARACTERS) != list(range(len(CHARACTERS))):
        what = "digits and upper-case letters do not have the labels 0 to 35, each once"
        got = ", ".join(f"{c} {label_of.get(c, 'missing')}" for c in sorted(CHARACTERS))
        raise InputError(what, where=file, got=got)
    labels: dict[str, int] = label_of
    return labels


def _split(root: Path, split: str, label_of: dict[str, int], stored: Stored) -> Labelled:
    """The images of a list, in its order, without lower-case letters."""
    file, pairs = root / split / f"{split}.txt", []
    line_of: dict[str, int] = {}
    for number, line in enumerate(read_text(file, LAYOUT).splitlines(), start=1):
        if not line.strip():
            continue
        name, _, character = line.strip().rpartition(" ")
        name, where = name.rstrip(" ,"), f"{file}:{number}"
        leads_out = Path(name).is_absolute() or ".." in Path(name).parts
        if not name or leads_out or character not in label_of:
            what = "a line does not name a file and a character"
            allowed = f"a file name below imgs/, a blank, and a character of {INDEX}"
            raise InputError(what, where=where, got=line, allowed=allowed)
        if name in line_of:
            raise InputError(f"{name} is listed twice", where=where, got=f"it is in line {line_of[name]} too")
        line_of[name] = number
        pairs.append((root / split / "imgs" / name, label_of[character]))
    everything = labelled_files(pairs, stored)
    return everything.take(everything.labels < len(CHARACTERS))


def _balanced(test: Labelled, names: tuple[str, ...], place: Path) -> Labelled:
    counts = np.bincount(test.labels, minlength=len(names))
    if not counts.all():
        what = "the test set takes the same number of each class, but some classes have none"
        got = ", ".join(names[c] for c in np.flatnonzero(counts == 0))
        raise InputError(what, where=place, got=got)
    return test.take(np.sort(long_tail_indices(test.labels, [int(counts.min())] * len(names))))
