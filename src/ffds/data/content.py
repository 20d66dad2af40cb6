"""The sum by which a run knows your own images, wherever they lie: `data.images` of its recipe."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress

from ffds.data.source import Source
from ffds.data.sources.registry import SOURCES
from ffds.errors import InputError
from ffds.recipes.schema import Data, Recipe
from ffds.settings import json_digest

__all__ = ["check_images", "images_sum", "knowing_images", "knowing_images_if_there"]


def knowing_images(recipe: Recipe) -> Recipe:
    """The recipe with `data.images` filled in; one that has it, or is of published images, as it is.

    Raises:
        InputError: the images cannot be opened.
    """
    data = recipe.data
    if data.images is not None or not SOURCES[data.name].own_images:
        return recipe
    return recipe.with_images(images_sum(SOURCES[data.name].open(data)))


def knowing_images_if_there(recipes: Sequence[Recipe]) -> list[Recipe]:
    """As `knowing_images` for several recipes, without those whose images cannot be opened: as they were."""
    sums: dict[Data, str | None] = {}
    for recipe in recipes:
        if recipe.data not in sums:
            sums[recipe.data] = None
            with suppress(InputError):  # it is raised again when they are opened to be trained on
                sums[recipe.data] = knowing_images(recipe).data.images
    return [recipe.with_images(sums[recipe.data]) for recipe in recipes]


def images_sum(source: Source) -> str:
    """``sha256:`` and 16 digits, of class names, labels and images as they are encoded, in their order.

    Where they lie, names and times of files, and their partition into Parquet files do not count.
    """
    total = hashlib.sha256(json_digest(list(source.class_names)).encode())
    splits = {"train": source.train, "test": source.test, "validation": source.validation}
    for role, split in splits.items():
        if split is None:
            continue
        total.update(f"{role} {len(split)}".encode())
        for content in split.images.contents(split.rows):
            total.update(len(content).to_bytes(1, "big") + content)
        total.update(split.labels.astype("<i8").tobytes())
    if source.ranks is not None:
        total.update(source.ranks.astype("<i8").tobytes())
    return f"sha256:{total.hexdigest()[:16]}"


def check_images(data: Data, source: Source) -> None:
    """Raise InputError if the recipe knows its images and these are others."""
    if data.images is not None and (found := images_sum(source)) != data.images:
        what = "these are not the images that the recipe knows"
        fix = "put them back, or take whatever is there: data.images=null"
        raise InputError(what, where=source.description, got=found, allowed=data.images, fix=fix)
