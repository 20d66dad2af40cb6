"""A recipe from its text, the command line and the defaults, with the origin of each value."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from ffds.errors import InputError
from ffds.recipes.describe import leaves
from ffds.recipes.explain import explain
from ffds.recipes.method_choice import choose_method
from ffds.recipes.method_settings import SETTINGS
from ffds.recipes.node import COMMAND_LINE, DEFAULT, Node, Place, merge, readable
from ffds.recipes.overrides import parse_overrides
from ffds.recipes.schema import Recipe
from ffds.recipes.section import Section
from ffds.recipes.source import read_recipe
from ffds.recipes.yaml_text import dump_yaml, parse_yaml

__all__ = ["Resolved", "dump_recipe", "load_recipe", "override_texts", "planned_recipe"]

_PLANNED = {
    "method.name": ("method", "--methods names those of a comparison and of table 1a"),
    "trainer.seed": ("seed", "--seeds names those of a comparison and of a table, --seed that of a figure"),
}
"""What is no setting where a plan has a run for each: its name, and where it is said instead."""


@dataclass(frozen=True)
class Resolved:
    """A recipe with nothing left open.

    Attributes:
        recipe: every setting.
        origin: where each came from, by dotted key: ``my.yaml:7``, ``command line`` or ``default``.
    """

    recipe: Recipe
    origin: Mapping[str, str]


def load_recipe(name_or_path: str, overrides: Sequence[str] = (), *, method: str | None = None) -> Resolved:
    """Resolve a recipe: defaults < `methods` of the file < `method` of the file < command line.

    Args:
        name_or_path: a shipped recipe's name, or the path of a YAML file.
        overrides: ``key=value`` with dotted keys, as on the command line.
        method: the method to take, with its settings from the recipe; the same as ``method=NAME`` in front
            of the overrides.

    Raises:
        InputError: whatever is wrong with the recipe and the overrides, all of it at once.

    >>> resolved = load_recipe("cifar100-lt-100", ["trainer.seed=1"], method="ldam-drw")
    >>> resolved.recipe.method.start, resolved.origin["method.start"], resolved.origin["trainer.seed"]
    (0.8, 'default', 'command line')
    """
    source = read_recipe(name_or_path)
    file = parse_yaml(source.text, source.label)
    command, misread = parse_overrides(overrides if method is None else [f"method={method}", *overrides])
    problems = [*file.problems, *misread]
    if file.root is None:
        raise InputError.joined(problems)
    choice = choose_method(file.root, command)
    problems += choice.problems
    for name, settings in (*choice.entries.items(), (choice.name, choice.settings)):
        problems += _faults(SETTINGS[name], settings)
    sections = {"name": Node(source.name, "name", Place(source.label)), **merge(file.root, command).entries}
    sections.pop("methods", None)
    tree = Node({**sections, "method": choice.settings}, "", file.root.place)
    problems += _faults(Recipe, tree)
    if problems:
        raise InputError.joined({str(problem): problem for problem in problems}.values())
    recipe = Recipe.model_validate(tree.plain())
    return Resolved(recipe, MappingProxyType(_origin(recipe, tree)))


def planned_recipe(
    name_or_path: str, overrides: Sequence[str], *, method: str, seed: int | None = None
) -> Recipe:
    """The recipe of one run among those of a comparison, a table or a figure.

    Args:
        name_or_path: a shipped recipe's name, or the path of a YAML file.
        overrides: ``key=value``, the same for all runs.
        method: of this run.
        seed: of this run; None takes the recipe's.

    Raises:
        InputError: the recipe cannot be resolved, or an override names a method or a seed, which would make
            other runs than the ones asked for.
    """
    given = dict(parse_overrides(overrides)[0].leaves())
    for key, (name, fix) in _PLANNED.items():
        if key in given:
            what = f"a comparison, a table or a figure decides the {name} of its runs"
            got = f"{key}={readable(str(given[key].plain()))}"
            raise InputError(what, where=COMMAND_LINE, got=got, fix=fix)
    seeds = [] if seed is None else [f"trainer.seed={seed}"]
    return load_recipe(name_or_path, [*overrides, *seeds], method=method).recipe


def override_texts(overrides: Mapping[str, Any]) -> list[str]:
    """Keys and values from Python as ``key=value``, which is read back as the same values.

    Args:
        overrides: dotted keys, and values that a recipe can hold; a path is its text.

    Raises:
        InputError: a value is of another kind.

    >>> override_texts({"data.cut": (3, 4, 3), "data.root": "pics #2"})
    ['data.cut=[3, 4, 3]', "data.root='pics #2'"]
    """
    return [f"{key}={_value_text(key, value)}" for key, value in overrides.items()]


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML with every default written out; `load_recipe` reads it back as an equal recipe."""
    return dump_yaml(recipe.model_dump(mode="json"))


def _value_text(key: str, value: Any) -> str:
    try:
        plain = json.loads(json.dumps(value, default=os.fspath))
    except (TypeError, ValueError) as error:
        allowed = "text, a number, True, False, None, a path, or a list or a dict of these"
        raise InputError(f"{key} cannot have this value", got=repr(value), allowed=allowed) from error
    return dump_yaml(plain).removesuffix("\n...\n").removesuffix("\n")


def _faults(model: type[Section], tree: Node) -> list[InputError]:
    try:
        model.model_validate(tree.plain())
    except ValidationError as failure:
        return explain(failure, model, tree)
    return []


def _origin(recipe: Recipe, tree: Node) -> dict[str, str]:
    written = dict(tree.leaves())
    return {key: str(written[key].place if key in written else DEFAULT) for key, _ in leaves(recipe)}
