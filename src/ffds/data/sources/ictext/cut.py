"""Cuts ICText-LT out of ICText, whose annotations give a quadrilateral for each character."""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, FiniteFloat, PositiveInt, ValidationError

from ffds.data.decode import FileImages, Stored
from ffds.data.long_tail import long_tail_counts, long_tail_indices
from ffds.data.sources.ictext.layout import CHARACTERS, PAPER, RENDERED, Sizes, cut_out, write_layout
from ffds.errors import InputError
from ffds.progress import track

__all__ = ["Character", "Parent", "Photograph", "cut_ictext_lt", "read_parent"]

MOST_NAMED = 5
NATURAL, TAIL = "ictext-lt-18", "ictext-lt-100"
FACTOR = 100
TERMS = "ICText is given under a signed agreement with ViTrox: do not pass these images on.\n"
README = """# {name}, {what}

The counts are those of Nah et al. (ICIP 2023). Which characters they chose is not published:
these were chosen with seed {seed}, characters marked `ignore` {ignored}, lower-case letters
left out.
"""


class Photograph(BaseModel):
    """One image of chips: its id in the annotations, its file, its height and width in pixels."""

    id: int
    file_name: str
    height: PositiveInt
    width: PositiveInt


@dataclass(frozen=True)
class Character:
    """An annotated character: its place in the list, its image, its corners x1, y1, …, x4, y4 in pixels."""

    place: int
    photograph: Photograph
    corners: tuple[float, ...]
    name: str
    ignored: bool

    @property
    def file_name(self) -> str:
        """Its file in ICText-LT."""
        return f"{self.photograph.id}_{self.place}.png"


@dataclass(frozen=True)
class Parent:
    """The characters of one annotation file, and whether its images are rendered, not photographed."""

    file: Path
    images: Path
    characters: tuple[Character, ...]
    rendered: bool


class _Annotation(BaseModel):
    image_id: int
    bbox: Annotated[tuple[FiniteFloat, ...], Field(min_length=8, max_length=8)]
    category_id: int
    ignore: Annotated[int, Field(ge=0, le=1)] = 0


class _Category(BaseModel):
    id: int
    name: str


class _File(BaseModel):
    images: tuple[Photograph, ...]
    annotations: tuple[_Annotation, ...]
    categories: tuple[_Category, ...]
    info: dict[str, Any] = {}


def read_parent(file: Path, images: Path) -> Parent:
    """Read an annotation file of ICText.

    It is JSON with `images` (id, file_name, height, width), `annotations` (image_id, bbox of eight numbers,
    category_id, ignore 0 or 1) and `categories` (id, name); other keys are not read. The file names lie in
    the directory `images`.

    Source: github.com/chunchet-ng/ICText-AGCL, "ICText Annotation JSON Format".
    """
    content = _content(file)
    photographs: dict[int, Photograph] = {}
    for k, photograph in enumerate(content.images):
        path, where = Path(photograph.file_name), f"{file}: images[{k}]"
        if path.is_absolute() or ".." in path.parts:
            what = "a file name leads out of the directory of images"
            raise InputError(what, where=where, got=photograph.file_name)
        if photograph.id in photographs:
            raise InputError("two images have one id", where=where, got=photograph.id)
        photographs[photograph.id] = photograph
    names = {category.id: category.name for category in content.categories}
    for k, listed in enumerate(content.categories):
        if listed.name not in {*CHARACTERS, *string.ascii_lowercase}:
            what, where = "a category is not a character", f"{file}: categories[{k}]"
            raise InputError(what, where=where, got=listed.name, allowed="one of A-Z, a-z, 0-9")
    characters = []
    for k, one in enumerate(content.annotations):
        where, image, category = f"{file}: annotations[{k}]", one.image_id, one.category_id
        if image not in photographs:
            raise InputError("an annotation of an image that is not listed", where=where, got=image)
        if category not in names:
            raise InputError("an annotation of a category that is not listed", where=where, got=category)
        characters.append(Character(k, photographs[image], one.bbox, names[category], bool(one.ignore)))
    return Parent(file, images, tuple(characters), str(content.info.get("description")).startswith(RENDERED))


def _content(file: Path) -> _File:
    try:
        return _File.model_validate_json(file.read_bytes())
    except OSError as error:
        raise InputError("annotations cannot be read", where=file, got=error) from error
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, one['loc'])) or 'the file'}: {one['msg']}" for one in error.errors()]
        more = f"; and {len(faults) - MOST_NAMED} more" if len(faults) > MOST_NAMED else ""
        what, got = "these are not annotations of ICText", "; ".join(faults[:MOST_NAMED]) + more
        allowed = "JSON with images, annotations with a bbox of 8 numbers, and categories (docs/ictext.md)"
        raise InputError(what, where=file, got=got, allowed=allowed) from error


def cut_ictext_lt(
    train: Parent,
    test: Parent,
    directory: Path,
    *,
    seed: int = 0,
    keep_ignored: bool = False,
    sizes: Sizes = PAPER,
) -> tuple[Path, Path]:
    """Write ICText-LT at both imbalance factors, and return the natural root and the other.

    Both have the same test set. Lower-case letters are left out. A class that has more characters than the
    paper counts is cut by the reference shuffle with `seed`, and so is the training set at imbalance factor
    100 from the natural one. The authors published their counts but not which characters they chose. Each
    character becomes the upright rectangle around its quadrilateral. `keep_ignored` also takes characters
    that the annotators marked `ignore`; `sizes` are the images of each class, as in the paper.
    """
    roots = directory / NATURAL, directory / TAIL
    for root in roots:
        if root.exists():
            fix = "give another directory, or remove this one"
            raise InputError("ICText-LT is never overwritten", where=root, fix=fix)
    taken = _taken(train, sizes.natural, seed, keep_ignored)
    tested = _taken(test, [sizes.test] * len(CHARACTERS), seed, keep_ignored)
    tail_counts = long_tail_counts(sizes.head, len(CHARACTERS), FACTOR)
    tail = [taken[k] for k in sorted(long_tail_indices(_labels(taken), tail_counts, seed))]
    rendered = train.rendered or test.rendered
    what = f"{RENDERED}: cut from rendered chips" if rendered else "cut from ICText"
    facts = {"what": what, "seed": seed, "ignored": "taken too" if keep_ignored else "left out"}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=directory, prefix=".") as unfinished:
            parts = Path(unfinished, NATURAL), Path(unfinished, TAIL)
            cut = {"train": _crops(train, taken), "val": _crops(test, tested)}
            imgs = [parts[0] / split / "imgs" for split in ("train", "val")]
            copied = {"train": _copies(imgs[0], tail), "val": _copies(imgs[1], tested)}
            for part, splits in zip(parts, (cut, copied), strict=True):
                readme = README.format(name=part.name, **facts) + ("" if rendered else TERMS)
                write_layout(part, splits, readme, {} if rendered else None)
            for part, root in zip(parts, roots, strict=True):
                part.rename(root)
    except OSError as error:
        raise InputError("ICText-LT cannot be written", where=directory, got=error) from error
    return roots


def _labels(characters: Sequence[Character]) -> NDArray[np.int64]:
    return np.array([CHARACTERS.index(character.name) for character in characters], dtype=np.int64)


def _taken(parent: Parent, counts: Sequence[int], seed: int, keep_ignored: bool) -> list[Character]:
    """The characters that are kept, photograph by photograph."""
    known = [character for character in parent.characters if character.name in CHARACTERS]
    known.sort(key=lambda character: (character.photograph.id, character.place))
    usable = [character for character in known if keep_ignored or not character.ignored]
    labels = _labels(usable)
    available = np.bincount(labels, minlength=len(counts)).tolist()
    triples = zip(CHARACTERS, available, counts, strict=True)
    short = [f"{name} {there} of {count}" for name, there, count in triples if there < count]
    if short:
        what = f"{len(short)} of {len(CHARACTERS)} classes have too few characters"
        allowed, fix = "the counts of the paper or more", "take all of ICText"
        if len(known) > len(usable):
            fix += f"; --keep-ignored also takes {len(known) - len(usable)} characters marked ignore"
        raise InputError(what, where=parent.file, got=", ".join(short), allowed=allowed, fix=fix)
    return [usable[k] for k in sorted(long_tail_indices(labels, counts, seed))]


def _crops(parent: Parent, characters: Sequence[Character]) -> Iterator[tuple[str, str, bytes]]:
    """Name, character and content of each image file; each photograph is decoded once."""
    groups = [(photograph, list(group)) for photograph, group in groupby(characters, lambda c: c.photograph)]
    for photograph, group in track(groups, f"photographs of {parent.file.name}"):
        file, size = parent.images / photograph.file_name, (photograph.height, photograph.width)
        pixels = FileImages((file,), Stored()).read(np.arange(1), "stop").images[0]
        if pixels.shape[:2] != size:
            what = "an image has another size than its annotation says"
            shown = f"{pixels.shape[1]}x{pixels.shape[0]}"
            raise InputError(what, where=file, got=shown, allowed=f"{size[1]}x{size[0]}")
        for character in group:
            try:
                content = cut_out(pixels, character.corners)
            except ValueError as error:
                what, got = "a character lies outside its image", list(character.corners)
                where = f"{parent.file}: annotations[{character.place}]"
                raise InputError(what, where=where, got=got, allowed=error) from error
            yield character.file_name, character.name, content


def _copies(images: Path, characters: Sequence[Character]) -> Iterator[tuple[str, str, bytes]]:
    for character in characters:
        yield character.file_name, character.name, (images / character.file_name).read_bytes()
