"""A resolved recipe in words: its leaves, and its schedule in epochs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from ffds.recipes.schedule import lr_factor, milestone_epochs, start_epoch, warmup_epochs
from ffds.recipes.schema import Recipe

__all__ = ["described_schedule", "leaves"]


def leaves(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every setting, in the order of the schema."""
    yield from _leaves(recipe.model_dump(mode="json"), "")


def described_schedule(recipe: Recipe) -> dict[str, str]:
    """Stretches of epochs, counted from 1 → phase and learning rate.

    >>> from ffds.recipes.load import load_recipe
    >>> described_schedule(load_recipe("cifar10-lt-100", ["schedule.epochs=60"]).recipe)["40–48"]
    'phase 2: d-ffds, lr 0.1'
    """
    epochs, warmup = recipe.schedule.epochs, warmup_epochs(recipe.schedule)
    start = start_epoch(recipe.method, epochs)
    drops = [epoch for epoch, _ in milestone_epochs(recipe)]
    bounds = sorted({0, warmup, start, *drops, epochs})
    return {
        f"{first + 1}–{after}": f"{_phase(recipe, start, first)}, lr {_rates(recipe, first, after)}"
        for first, after in pairwise(bounds)
    }


def _phase(recipe: Recipe, start: int, epoch: int) -> str:
    if start == 0:
        return recipe.method.name
    return f"phase 2: {recipe.method.name}" if epoch >= start else "phase 1"


def _rates(recipe: Recipe, first: int, after: int) -> str:
    begin, end = (recipe.optimizer.lr * lr_factor(recipe, epoch) for epoch in (first, after - 1))
    return f"{begin:.3g}" if begin == end else f"{begin:.3g} rising to {end:.3g}"


def _leaves(value: object, key: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        yield key, value
        return
    for name, inner in value.items():
        yield from _leaves(inner, f"{key}.{name}" if key else name)
