"""Cuts ICText-LT out of ICText, whose annotations give a quadrilateral for each character."""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from ffds.data.decode import FileImages, Stored
from ffds.data.long_tail import long_tail_counts, long_tail_indices
from ffds.data.sources.ictext.layout import (
    CHARACTERS,
    PAPER,
    RENDERED,
    Crop,
    Sizes,
    cut_out,
    write_root,
    write_split,
)
from ffds.errors import InputError
from ffds.progress import track

__all__ = ["Character", "Parent", "Photograph", "cut_ictext_lt", "read_parent"]

MOST_NAMED = 5
NATURAL, TAIL = "ictext-lt-18", "ictext-lt-100"
FACTOR = 100
Coordinate = Annotated[float, Field(allow_inf_nan=False)]
Pixels = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Photograph:
    """One image of chips: its id in the annotations, its file, its height and width in pixels."""

    number: int
    file: Path
    height: int
    width: int


@dataclass(frozen=True)
class Character:
    """One annotated character.

    Attributes:
        place: the annotation's position in the list.
        photograph: the image that shows it.
        corners: x1, y1, …, x4, y4 in pixels.
        name: the character.
        ignored: whether the annotators marked it `ignore`.
    """

    place: int
    photograph: Photograph
    corners: tuple[float, ...]
    name: str
    ignored: bool


@dataclass(frozen=True)
class Parent:
    """The characters of one annotation file, and whether its images are rendered, not photographed."""

    file: Path
    characters: tuple[Character, ...]
    rendered: bool


class _Image(BaseModel):
    id: int
    file_name: str
    height: Pixels
    width: Pixels


class _Annotation(BaseModel):
    image_id: int
    bbox: Annotated[tuple[Coordinate, ...], Field(min_length=8, max_length=8)]
    category_id: int
    ignore: Annotated[int, Field(ge=0, le=1)] = 0


class _Category(BaseModel):
    id: int
    name: str


class _Info(BaseModel):
    description: str = ""


class _File(BaseModel):
    images: tuple[_Image, ...]
    annotations: tuple[_Annotation, ...]
    categories: tuple[_Category, ...]
    info: _Info = _Info()


def read_parent(file: Path, images: Path) -> Parent:
    """Read an annotation file of ICText.

    Args:
        file: JSON with `images` (id, file_name, height, width), `annotations` (image_id, bbox of eight
            numbers, category_id, ignore 0 or 1) and `categories` (id, name); other keys are not read.
        images: the directory in which the file names lie.

    Raises:
        InputError: it cannot be read or is not of this form; an annotation names an image or a category that
            is not there; two images have one id; a category is not one letter or digit; a file name leads
            out of `images`.

    Source: github.com/chunchet-ng/ICText-AGCL, "ICText Annotation JSON Format".
    """
    content = _content(file)
    photographs = _photographs(file, images, content.images)
    names = _names(file, content.categories)
    characters = []
    for k, annotation in enumerate(content.annotations):
        image, category = annotation.image_id, annotation.category_id
        for listed, what, given in ((photographs, "an image", image), (names, "a category", category)):
            if given not in listed:
                where = f"{file}: annotations[{k}]"
                raise InputError(f"an annotation of {what} that is not listed", where=where, got=given)
        ignored = bool(annotation.ignore)
        characters.append(Character(k, photographs[image], annotation.bbox, names[category], ignored))
    return Parent(file, tuple(characters), content.info.description.startswith(RENDERED))


def _content(file: Path) -> _File:
    try:
        return _File.model_validate_json(file.read_bytes())
    except OSError as error:
        raise InputError("annotations cannot be read", where=file, got=error) from error
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'the file'}: {fault['msg']}" for fault in error.errors()
        ]
        more = f"; and {len(faults) - MOST_NAMED} more" if len(faults) > MOST_NAMED else ""
        raise InputError(
            "these are not annotations of ICText",
            where=file,
            got="; ".join(faults[:MOST_NAMED]) + more,
            allowed="JSON with images, annotations with a bbox of 8 numbers, and categories (docs/ictext.md)",
        ) from error


def _photographs(file: Path, directory: Path, images: tuple[_Image, ...]) -> dict[int, Photograph]:
    photographs: dict[int, Photograph] = {}
    for k, image in enumerate(images):
        place, where = Path(image.file_name), f"{file}: images[{k}]"
        if place.is_absolute() or ".." in place.parts:
            what = "a file name leads out of the directory of images"
            raise InputError(what, where=where, got=image.file_name)
        if image.id in photographs:
            raise InputError("two images have one id", where=where, got=image.id)
        photographs[image.id] = Photograph(image.id, directory / place, image.height, image.width)
    return photographs


def _names(file: Path, categories: tuple[_Category, ...]) -> dict[int, str]:
    known = set(CHARACTERS + string.ascii_lowercase)
    for k, category in enumerate(categories):
        if category.name not in known:
            raise InputError(
                "a category is not a character",
                where=f"{file}: categories[{k}]",
                got=category.name,
                allowed="one of A-Z, a-z, 0-9",
            )
    return {category.id: category.name for category in categories}


def cut_ictext_lt(
    train: Parent,
    test: Parent,
    directory: Path,
    *,
    seed: int = 0,
    keep_ignored: bool = False,
    sizes: Sizes = PAPER,
) -> tuple[Path, Path]:
    """Write ICText-LT at both imbalance factors, with the same test set.

    Lower-case letters are left out. A class that has more characters than the paper counts is cut by the
    reference shuffle with `seed`, and so is the training set at imbalance factor 100 from the natural one.
    The authors published their counts but not which characters they chose. Each character becomes the upright
    rectangle around its quadrilateral.

    Args:
        train: annotations of ICText's training images.
        test: annotations of its test images.
        directory: where to write; made if missing.
        seed: of both cuts, 0 <= seed < 2**32.
        keep_ignored: whether characters that the annotators marked `ignore` may be taken.
        sizes: images a class; the paper's.

    Returns:
        The natural root and that of imbalance factor 100: the layout that `data.name=ictext` reads.

    Raises:
        InputError: `directory` already holds one of them or cannot be written; a class has too few
            characters; an image cannot be read, has another size than annotated, or a character lies
            outside of it.
    """
    roots = directory / NATURAL, directory / TAIL
    for root in roots:
        if root.exists():
            fix = "give another directory, or remove this one"
            raise InputError("ICText-LT is never overwritten", where=root, fix=fix)
    taken = _taken(train, sizes.natural, seed, keep_ignored)
    tested = _taken(test, [sizes.test] * len(CHARACTERS), seed, keep_ignored)
    labels = np.array([CHARACTERS.index(character.name) for character in taken])
    tail_counts = long_tail_counts(sizes.head, len(CHARACTERS), FACTOR)
    tail = [taken[k] for k in sorted(long_tail_indices(labels, tail_counts, seed))]
    rendered = train.rendered or test.rendered
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=directory, prefix=".") as unfinished:
            natural, cut = Path(unfinished, NATURAL), Path(unfinished, TAIL)
            write_split(natural, "train", _crops(train, taken))
            write_split(natural, "val", _crops(test, tested))
            write_split(cut, "train", _copies(natural / "train" / "imgs", tail))
            write_split(cut, "val", _copies(natural / "val" / "imgs", tested))
            for part in (natural, cut):
                write_root(part, _readme(part.name, seed, keep_ignored, rendered), {} if rendered else None)
            for part, root in zip((natural, cut), roots, strict=True):
                part.rename(root)
    except OSError as error:
        raise InputError("ICText-LT cannot be written", where=directory, got=error) from error
    return roots


def _taken(parent: Parent, counts: Sequence[int], seed: int, keep_ignored: bool) -> list[Character]:
    """The characters that are kept, photograph by photograph."""
    known = [character for character in parent.characters if character.name in CHARACTERS]
    known.sort(key=lambda character: (character.photograph.number, character.place))
    usable = [character for character in known if keep_ignored or not character.ignored]
    labels = np.array([CHARACTERS.index(character.name) for character in usable], dtype=np.int64)
    available = np.bincount(labels, minlength=len(counts)).tolist()
    triples = zip(CHARACTERS, available, counts, strict=True)
    short = [f"{name} {there} of {count}" for name, there, count in triples if there < count]
    if short:
        ignored = len(known) - len(usable)
        more = f"; --keep-ignored also takes {ignored} characters marked ignore" if ignored else ""
        raise InputError(
            f"{len(short)} of {len(CHARACTERS)} classes have too few characters",
            where=parent.file,
            got=", ".join(short),
            allowed="the counts of the paper or more",
            fix=f"take all of ICText{more}",
        )
    return [usable[k] for k in sorted(long_tail_indices(labels, counts, seed))]


def _crops(parent: Parent, characters: Sequence[Character]) -> Iterator[Crop]:
    """The characters of each photograph, which is decoded once."""
    groups = [(photograph, list(group)) for photograph, group in groupby(characters, lambda c: c.photograph)]
    for photograph, group in track(groups, f"photographs of {parent.file.name}"):
        pixels = _pixels(photograph)
        for character in group:
            try:
                content = cut_out(pixels, character.corners)
            except ValueError as error:
                raise InputError(
                    "a character lies outside its image",
                    where=f"{parent.file}: annotations[{character.place}]",
                    got=list(character.corners),
                    allowed=error,
                ) from error
            yield Crop(_file_name(character), character.name, content)


def _pixels(photograph: Photograph) -> NDArray[np.uint8]:
    images = FileImages((photograph.file,), Stored())
    pixels: NDArray[np.uint8] = images.read(np.arange(1), "stop").images[0]
    if pixels.shape[:2] != (photograph.height, photograph.width):
        raise InputError(
            "an image has another size than its annotation says",
            where=photograph.file,
            got=f"{pixels.shape[1]}x{pixels.shape[0]}",
            allowed=f"{photograph.width}x{photograph.height}",
        )
    return pixels


def _copies(images: Path, characters: Iterable[Character]) -> Iterator[Crop]:
    for character in characters:
        name = _file_name(character)
        yield Crop(name, character.name, (images / name).read_bytes())


def _file_name(character: Character) -> str:
    return f"{character.photograph.number}_{character.place}.png"


def _readme(name: str, seed: int, keep_ignored: bool, rendered: bool) -> str:
    what = f"{RENDERED}: cut from rendered chips" if rendered else "cut from ICText"
    terms = "ICText is given under a signed agreement with ViTrox: do not pass these images on.\n"
    return (
        f"# {name}, {what}\n\n"
        f"The counts are those of Nah et al. (ICIP 2023). Which characters they chose is not published:\n"
        f"these were chosen with seed {seed}, characters marked `ignore` "
        f"{'taken too' if keep_ignored else 'left out'}, lower-case letters\n"
        f"left out.\n"
    ) + ("" if rendered else terms)
