"""What makes two sweeps one study: the same images, settings and bounds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ffds.data.dataset import Dataset
from ffds.errors import InputError
from ffds.recipes.schedule import leaves
from ffds.recipes.schema import LOADING, RUNNING, Recipe
from ffds.sweep.space import SEARCHED, Space

__all__ = ["identity", "refuse_other", "study_name"]

_PLACE = {"data.root", "data.download", *(f"data.{key}" for key in LOADING)}
_MACHINE = {f"trainer.{key}" for key in RUNNING}
_LEFT_OUT = _PLACE | _MACHINE | {f"method.{key}" for key in SEARCHED}
"""Where the images lie differs from machine to machine; what is searched differs from trial to trial."""


def identity(recipe: Recipe, dataset: Dataset, space: Space) -> dict[str, Any]:
    """All that the trials of a study have in common, ready for JSON.

    The test images are no part of it.

    Args:
        recipe: with its validation set.
        dataset: its images.
        space: where the settings are searched.
    """
    settings = {key: value for key, value in leaves(recipe) if key not in _LEFT_OUT}
    bounds = {f"searched {key}": allowed for key, allowed in space.described().items()}
    images = [split.digest for split in (dataset.train, dataset.validation) if split is not None]
    return settings | bounds | {"images": " ".join(images)}


def study_name(recipe: Recipe, found: Mapping[str, Any]) -> str:
    """A name of its own for every identity, e.g. ``d-ffds-seed0-1a2b3c4d``."""
    canonical = json.dumps(found, sort_keys=True, separators=(",", ":"))
    leaf = hashlib.sha256(canonical.encode()).hexdigest()[:8]
    return f"{recipe.method.name}-seed{recipe.trainer.seed}-{leaf}"


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
