"""What makes two sweeps one study: the same images, settings and bounds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ffds.data.dataset import Dataset
from ffds.errors import InputError
from ffds.recipes.schema import Recipe, keys_with
from ffds.settings import Role, json_digest
from ffds.sweep.space import SEARCHED, Space

__all__ = ["identity", "refuse_other", "study_name"]


def identity(recipe: Recipe, dataset: Dataset, space: Space) -> dict[str, Any]:
    """All that the trials of a study have in common, ready for JSON.

    The test images are no part of it.

    Args:
        recipe: with its validation set.
        dataset: its images.
        space: where the settings are searched.
    """
    elsewhere = keys_with(Role.PLACE, Role.LOADING, Role.NEUTRAL)
    left_out = {*elsewhere, *(f"method.{key}" for key in SEARCHED)}
    settings = {key: value for key, value in recipe.by_key.items() if key not in left_out}
    bounds = {f"searched {key}": allowed for key, allowed in space.described().items()}
    images = [split.digest for split in (dataset.train, dataset.validation) if split is not None]
    return settings | bounds | {"images": " ".join(images)}


def study_name(recipe: Recipe, found: Mapping[str, Any]) -> str:
    """A name of its own for every identity, e.g. ``d-ffds-seed0-1a2b3c4d``."""
    return f"{recipe.method.name}-seed{recipe.trainer.seed}-{json_digest(found)[:8]}"


def refuse_other(name: str, own: Mapping[str, Any], study: Mapping[str, Any]) -> None:
    """Stop unless a study has this identity.

    Raises:
        InputError: it has another one; the message lists the keys that differ.
    """
    differing = [key for key in {**own, **study} if own.get(key) != study.get(key)]
    if differing:
        raise InputError(
            f"study {name} is another search",
            got="\n           ".join(f"{key}: {_shown(own.get(key))}" for key in differing),
            allowed="\n           ".join(f"{key}: {_shown(study.get(key))}" for key in differing),
            fix="go on with the settings of the study, or give this search a name of its own: --study NAME",
        )


def _shown(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
