"""The verbs about recipes: recipes, show."""

from __future__ import annotations

import argparse
from typing import Any

from ffds.cli.options import add_recipe, add_verb, plain, print_result, resolved_recipe

__all__ = ["add_verbs", "recipes", "show"]


def recipes(options: argparse.Namespace) -> None:
    """List the shipped recipes."""
    from ffds.recipes import shipped_recipes

    shipped = shipped_recipes()
    rows = [["name", "what it is"], *map(list, shipped.items())]
    print_result(options, shipped, {"shipped recipes": rows})


def show(options: argparse.Namespace) -> None:
    """Print the resolved recipe, the origin of each value, and its schedule in epochs."""
    from ffds.recipes.schedule import described_schedule

    resolved = resolved_recipe(options)
    if options.yaml:
        from ffds.recipes.load import dump_recipe

        print(dump_recipe(resolved.recipe), end="")
        return
    recipe, schedule = resolved.recipe, described_schedule(resolved.recipe)
    content = {
        "recipe": recipe.model_dump(mode="json"),
        "config_hash": recipe.config_hash,
        "origin": dict(resolved.origin),
        "schedule": schedule,
    }
    values = [[key, plain(value), resolved.origin[key]] for key, value in recipe.by_key.items()]
    tables = {
        f"{recipe.name}, hash {recipe.config_hash[:8]}": [["key", "value", "from"], *values],
        "schedule": [["epochs", "what happens"], *map(list, schedule.items())],
    }
    print_result(options, content, tables)


def add_verbs(verbs: Any) -> None:
    """Add recipes and show."""
    add_verb(verbs, "recipes", recipes)
    parser = add_verb(verbs, "show", show)
    parser.add_argument("--yaml", action="store_true", help="print the recipe as a file, with every default")
    add_recipe(parser)
