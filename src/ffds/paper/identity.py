"""What a run measures: its recipe and method, the settings that decide the result, and its length."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from ffds.recipes.describe import leaves
from ffds.recipes.load import load_recipe
from ffds.recipes.schema import LOADING, RUNNING, Recipe
from ffds.recipes.source import shipped_recipes

__all__ = ["Identity", "changed_settings", "deciding", "identity", "protocol"]

_OWN_COLUMN = ("name", "method.name", "trainer.seed", "schedule.epochs")
_LOADING = ("data.download", *(f"data.{key}" for key in LOADING))
"""How the images come from where they lie."""
_OWN_IMAGES = ("folder", "parquet")
"""Sources whose directory says which images they are; those of the others are the same everywhere."""
_MACHINE = (
    *("trainer.compile", "trainer.channels_last", "trainer.devices", "trainer.num_nodes"),
    *("trainer.accelerator", "trainer.deterministic", "trainer.eval_every"),
    *(f"trainer.{key}" for key in RUNNING),
)
"""How a machine does the same training. Not trainer.precision: that can cost accuracy."""


class Identity(NamedTuple):
    """What was measured, whatever the seed and the machine: runs that agree in it are repetitions."""

    recipe: str
    method: str
    settings: frozenset[str]
    epochs: int


def identity(recipe: Recipe) -> Identity:
    """What a run of this recipe measures.

    >>> one = load_recipe("digits", ["trainer.compile=true", "trainer.seed=3"]).recipe
    >>> identity(one) == identity(load_recipe("digits").recipe)
    True
    """
    settings = deciding(changed_settings(recipe))
    return Identity(recipe.name, recipe.method.name, settings, recipe.schedule.epochs)


def changed_settings(recipe: Recipe) -> tuple[str, ...]:
    """``key=value`` of each setting that differs from the shipped recipe's for the same method.

    Seed and epochs are told apart. Where a published dataset lies is no setting; the directory of images of
    one's own is. A recipe that is not shipped is compared with the defaults.

    >>> changed_settings(load_recipe("digits", ["method.k=0.5", "data.root=here"]).recipe)
    ('method.k=0.5',)
    """
    usual = dict(leaves(_usual(recipe)))
    aside = (*_OWN_COLUMN, *_LOADING, *(() if recipe.data.name in _OWN_IMAGES else ("data.root",)))
    return tuple(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in leaves(recipe)
        if key not in aside and value != usual[key]
    )


def deciding(settings: Iterable[str]) -> frozenset[str]:
    """Those of ``key=value`` that say what is measured beside recipe, method, seed and length.

    >>> deciding(["method.k=0.5", "data.download=true", "trainer.compile=true"])
    frozenset({'method.k=0.5'})
    """
    aside = (*_OWN_COLUMN, *_LOADING, *_MACHINE)
    return frozenset(text for text in settings if text.partition("=")[0] not in aside)


def protocol(recipe: Recipe) -> str:
    """``full`` where the run has as many epochs as the shipped recipe, else ``N-epochs``.

    >>> protocol(load_recipe("cifar100-lt-100", ["schedule.epochs=40"]).recipe)
    '40-epochs'
    """
    epochs = recipe.schedule.epochs
    return "full" if epochs == _usual(recipe).schedule.epochs else f"{epochs}-epochs"


def _usual(recipe: Recipe) -> Recipe:
    return _shipped_or_defaults(recipe.name, recipe.method.name, recipe.data.name)


@cache
def _shipped_or_defaults(name: str, method: str, source: str) -> Recipe:
    if name in shipped_recipes():
        return load_recipe(name, method=method).recipe
    return Recipe.model_validate({"name": name, "data": {"name": source}, "method": {"name": method}})
