"""What a sweep trains: the recipe asked for, with FFDS and with a validation set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ffds.environment import ranks
from ffds.errors import InputError
from ffds.methods.ffds import FFDS
from ffds.recipes.load import load_recipe
from ffds.recipes.schema import Recipe

__all__ = ["VALIDATION", "searched_method", "searched_recipe", "with_settings", "with_validation"]

VALIDATION = 0.1
"""Part of each training class held out where the recipe holds out none."""


def searched_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe with its own settings of D-FFDS, or of FFDS where ``method=ffds`` asks for it.

    Args:
        name_or_path: a shipped recipe's name, or the path of a YAML file.
        overrides: ``key=value`` on top of it.

    Raises:
        InputError: the recipe cannot be resolved, asks for another method, or for several devices.

    >>> searched_recipe("cifar100-lt-100").method.name
    'd-ffds'
    """
    recipe = load_recipe(name_or_path, overrides, method="d-ffds").recipe
    searched_method(recipe)
    asked = {"trainer.devices": recipe.trainer.devices, "trainer.num_nodes": recipe.trainer.num_nodes}
    asked["WORLD_SIZE"] = ranks()
    if many := [f"{key}={value}" for key, value in asked.items() if value > 1]:
        raise InputError(
            "each process of a sweep trains a trial of its own on one device",
            got=", ".join(many),
            allowed=1,
            fix="start the same command once for each device, e.g. with CUDA_VISIBLE_DEVICES=0, then 1",
        )
    return recipe


def searched_method(recipe: Recipe) -> FFDS:
    """The settings of FFDS in a recipe.

    Raises:
        InputError: its method is another one.
    """
    if not isinstance(recipe.method, FFDS):
        raise InputError(
            "a sweep searches the settings of FFDS",
            got=f"method={recipe.method.name}",
            allowed="method=d-ffds, method=ffds",
        )
    return recipe.method


def with_validation(recipe: Recipe) -> Recipe:
    """The recipe, holding out validation images if it does not do so itself.

    >>> with_validation(searched_recipe("digits")).data.validation
    0.1
    """
    if recipe.data.validation:
        return recipe
    data = recipe.data.model_copy(update={"validation": VALIDATION})
    return recipe.model_copy(update={"data": data})


def with_settings(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """The recipe with other settings of its method, which are checked as those of a file are."""
    method = type(recipe.method).model_validate({**recipe.method.model_dump(), **settings})
    return recipe.model_copy(update={"method": method})
