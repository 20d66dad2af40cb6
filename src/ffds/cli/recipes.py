"""The verbs about recipes and methods: recipes, methods, show."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import Any

from ffds.cli.options import add_recipe, add_verb, plain, print_result, resolved_recipe

__all__ = ["add_verbs", "methods", "recipes", "show"]


def recipes(options: argparse.Namespace) -> None:
    """List the shipped recipes."""
    from ffds.recipes import shipped_recipes

    shipped = shipped_recipes()
    rows = [["name", "what it is"], *map(list, shipped.items())]
    print_result(options, shipped, {"shipped recipes": rows})


def methods(options: argparse.Namespace) -> None:
    """List the methods; with NAME, say all about one: where it comes from, its keys, its schedule."""
    from ffds.errors import InputError, nearest
    from ffds.methods.facts import costs, facts
    from ffds.methods.registry import METHODS

    if options.name is None:
        found = {name: facts(name) for name in METHODS}
        content = {"methods": found, "costs": costs()}
        print_result(options, content, {"methods": _listed(found)}, *_measured_on(costs()))
        return
    if options.name not in METHODS:
        allowed, fix = ", ".join(METHODS), nearest(options.name, METHODS)
        raise InputError("unknown method", where="NAME", got=options.name, allowed=allowed, fix=fix)
    _say_all_about(options)


def _listed(found: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """A header, and of each method what stands in its line."""
    rows = [["method=", "what it minimises", "phases", "source", "needs", "step beside CE"]]
    for name, of in found.items():
        cost = of["step_beside_ce"]
        beside = "—" if cost is None else f"{cost:.2f}"
        rows.append([name, of["about"], str(of["phases"]), _short(of["source"]), of["needs"] or "—", beside])
    return rows


def _short(source: str) -> str:
    """Authors and year of a source."""
    year = re.search(r"\b(?:19|20)\d\d\b", source)
    return f"{source.partition(',')[0]} {year[0] if year else ''}".strip()


def _measured_on(costs: Mapping[str, Any]) -> list[str]:
    """Where the costs were measured, if they were."""
    return [f"costs measured on {costs['hardware']}, torch {costs['torch']}"] if costs else []


def _say_all_about(options: argparse.Namespace) -> None:
    """Print the facts, the keys and the schedule of one method."""
    from ffds.methods.facts import facts
    from ffds.methods.registry import METHODS
    from ffds.recipes.load import load_recipe
    from ffds.recipes.schedule import described_schedule
    from ffds.recipes.settings_page import key_rows

    name, recipe = options.name, "cifar100-lt-100"
    keys = key_rows(METHODS[name], (key for key in METHODS[name].model_fields if key != "name"), "method")
    schedule = described_schedule(load_recipe(recipe, method=name).recipe)
    content = {
        **facts(name),
        "keys": {key: {"values": v, "default": d, "meaning": m} for key, v, d, m in keys},
        "schedule": schedule,
    }
    tables = {
        name: [["fact", "value"], *([key, plain(value)] for key, value in facts(name).items() if value)],
        "its keys": [["key", "values", "default", "meaning"], *keys],
        f"schedule, with recipe {recipe}": [["epochs", "what happens"], *map(list, schedule.items())],
    }
    print_result(options, content, tables)


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
    """Add recipes, methods and show."""
    add_verb(verbs, "recipes", recipes)
    about = "one method, of which all is said (default: a line for each)"
    add_verb(verbs, "methods", methods).add_argument("name", metavar="NAME", nargs="?", help=about)
    parser = add_verb(verbs, "show", show)
    parser.add_argument("--yaml", action="store_true", help="print the recipe as a file, with every default")
    add_recipe(parser)
