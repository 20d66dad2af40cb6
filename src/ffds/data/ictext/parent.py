"""The annotations of ICText, from which ICText-LT is cut: COCO's form with a quadrilateral a character."""

from __future__ import annotations

import string
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from ffds.data.ictext.layout import CHARACTERS
from ffds.errors import InputError
from ffds.recipes.schema import RENDERED

__all__ = ["Character", "Parent", "Photograph", "read_parent"]

NAMED_AT_MOST = 5
Coordinate = Annotated[float, Field(allow_inf_nan=False)]
Pixels = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Photograph:
    """One image of chips: its number in the annotations, its file, its height and width in pixels."""

    number: int
    file: Path
    height: int
    width: int


@dataclass(frozen=True)
class Character:
    """One annotated character.

    Attributes:
        place: the annotation's position in the list.
        photograph: the image it stands in.
        corners: x1, y1, …, x4, y4 in pixels.
        name: what it shows.
        ignored: the annotators would rather not count it.
    """

    place: int
    photograph: Photograph
    corners: tuple[float, ...]
    name: str
    ignored: bool


@dataclass(frozen=True)
class Parent:
    """One annotation file, in its order; `rendered` where no camera took its images."""

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
            numbers, category_id, ignore 0 or 1) and `categories` (id, name); what else it holds is not read.
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
        where = f"{file}: annotations[{k}]"
        if annotation.image_id not in photographs:
            raise InputError(
                "an annotation of an image that is not listed", where=where, got=annotation.image_id
            )
        if annotation.category_id not in names:
            raise InputError(
                "an annotation of a category that is not listed", where=where, got=annotation.category_id
            )
        photograph, name = photographs[annotation.image_id], names[annotation.category_id]
        characters.append(Character(k, photograph, annotation.bbox, name, bool(annotation.ignore)))
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
        more = f"; and {len(faults) - NAMED_AT_MOST} more" if len(faults) > NAMED_AT_MOST else ""
        raise InputError(
            "these are not annotations of ICText",
            where=file,
            got="; ".join(faults[:NAMED_AT_MOST]) + more,
            allowed="JSON with images, annotations with a bbox of 8 numbers, and categories (docs/ictext.md)",
        ) from error


def _photographs(file: Path, directory: Path, images: tuple[_Image, ...]) -> dict[int, Photograph]:
    photographs: dict[int, Photograph] = {}
    for k, image in enumerate(images):
        place, where = Path(image.file_name), f"{file}: images[{k}]"
        if place.is_absolute() or ".." in place.parts:
            raise InputError(
                "a file name leads out of the directory of images", where=where, got=image.file_name
            )
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
