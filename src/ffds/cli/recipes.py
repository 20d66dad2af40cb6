"""The verbs about recipes: recipes, show."""

from __future__ import annotations

import argparse
from typing import Any

from ffds.cli.options import add_recipe, add_verb, plain, print_json, print_table, resolved_recipe

__all__ = ["add_verbs", "recipes", "show"]


def recipes(options: argparse.Namespace) -> None:
    """List the shipped recipes."""
    from ffds.recipes import shipped_recipes

    found = shipped_recipes()
    if options.json:
        print_json(found)
    else:
        print_table("shipped recipes", [["name", "what it is"], *map(list, found.items())])


def show(options: argparse.Namespace) -> None:
    """Print the resolved recipe, the origin of each value, and its schedule in epochs."""
    from ffds.recipes.schedule import described_schedule

    resolved = resolved_recipe(options)
    schedule = described_schedule(resolved.recipe)
    if options.json:
        print_json(
            {
                "recipe": resolved.recipe.model_dump(mode="json"),
                "config_hash": resolved.recipe.config_hash,
                "origin": dict(resolved.origin),
                "schedule": schedule,
            }
        )
        return
    rows = [[key, plain(value), resolved.origin[key]] for key, value in resolved.recipe.by_key.items()]
    title = f"{resolved.recipe.name}, hash {resolved.recipe.config_hash[:8]}"
    print_table(title, [["key", "value", "from"], *rows])
    print_table("schedule", [["epochs", "what happens"], *map(list, schedule.items())])


def add_verbs(verbs: Any) -> None:
    """Add recipes and show."""
    add_verb(verbs, "recipes", recipes)
    add_recipe(add_verb(verbs, "show", show))
