"""A recipe from its text, the command line and the defaults, with the origin of each value."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from ffds.errors import InputError
from ffds.methods.registry import METHODS, SETTINGS
from ffds.recipes.documents import method_section, read_document, recipe_name, recipe_text, shipped_recipes
from ffds.recipes.messages import explain, no_section, unknown_method
from ffds.recipes.preprocessing import with_preprocessing
from ffds.recipes.pretrained import sum_of_file, weights_file
from ffds.recipes.schema import Recipe
from ffds.recipes.yaml_loader import COMMAND_LINE, DEFAULT, MAX_DEPTH, Node, dump_yaml, merge, parse_yaml
from ffds.settings import Section, by_dotted_key

__all__ = ["Resolved", "dump_recipe", "load_recipe", "override_texts", "parse_overrides", "planned_recipe"]
__all__ += ["recipe_text", "shipped_recipes"]


@dataclass(frozen=True)
class Resolved:
    """A complete recipe and the origin of its values."""

    recipe: Recipe
    origin: Mapping[str, str]
    """Where each setting came from, by dotted key: ``my.yaml:7``, ``command line`` or ``default``."""


def load_recipe(name_or_path: str, overrides: Sequence[str] = (), *, method: str | None = None) -> Resolved:
    """Resolve a recipe: defaults < `methods` of the file < `method` of the file < command line.

    The file is what `ffds.recipes.documents.read_document` gives: laid over the recipe that it extends.

    Args:
        name_or_path: a shipped recipe's name, or a path: anything with a directory, or ending in ``.yaml``.
        overrides: ``key=value`` with dotted keys, as on the command line.
        method: the method to take; the same as ``method=NAME`` in front of the overrides.

    Raises:
        InputError: everything that is wrong with the recipe and the overrides, all at once.

    >>> resolved = load_recipe("cifar100-lt-100", ["trainer.seed=1"], method="ldam-drw")
    >>> resolved.recipe.method.start, resolved.origin["method.start"], resolved.origin["trainer.seed"]
    (0.8, 'default', 'command line')
    """
    file, problems = read_document(name_or_path)
    command, misread = parse_overrides(overrides if method is None else [f"method={method}", *overrides])
    problems += misread
    if file is None:
        raise InputError.joined(problems)
    section, faults = _method(file, command)
    name = Node(recipe_name(name_or_path), "name", file.place)
    sections = {"name": name, **merge(file, command).entries, "method": section}
    tree = replace(file, value={key: node for key, node in sections.items() if key != "methods"})
    tree, unknown = with_preprocessing(tree, lambda path: load_recipe(path).recipe)
    problems += [*faults, *unknown, *([] if unknown else _faults(Recipe, tree))]
    if problems:
        # The same fault can be in a method's entry of `methods` and in `method`.
        raise InputError.joined({str(problem): problem for problem in problems}.values())
    recipe = Recipe.model_validate(tree.plain())
    nodes = {key: tree.nearest(key.split(".")) for key in recipe.by_key}
    origin = {key: DEFAULT if beyond else node.place for key, (node, beyond) in nodes.items()}
    if recipe.model.weights is not None and recipe.model.weights_sum is None:
        weights = weights_file(recipe.model.weights)
        recipe, origin["model.weights_sum"] = recipe.with_weights_sum(sum_of_file(weights)), str(weights)
    return Resolved(recipe, MappingProxyType(origin))


def planned_recipe(
    name_or_path: str, overrides: Sequence[str], *, method: str, seed: int | None = None
) -> Recipe:
    """The recipe of one run of a comparison, a table or a figure; no `seed` takes the recipe's.

    An override of the method or the seed is refused: it would make other runs than the ones asked for.
    """
    given = by_dotted_key(parse_overrides(overrides)[0].plain())
    for key, name, fix in (
        ("method.name", "method", "--methods names those of a comparison and of table 1a"),
        ("trainer.seed", "seed", "--seeds names those of a comparison or a table, --seed that of a figure"),
    ):
        if key in given:
            what, got = f"a comparison, a table or a figure decides the {name} of its runs", str(given[key])
            raise InputError(what, where=COMMAND_LINE, got=f"{key}={got}", fix=fix)
    seeds = [] if seed is None else [f"trainer.seed={seed}"]
    return load_recipe(name_or_path, [*overrides, *seeds], method=method).recipe


def parse_overrides(overrides: Sequence[str]) -> tuple[Node, list[InputError]]:
    """All overrides in one tree, the later of two for a key, and what is wrong with those not in it.

    >>> tree, problems = parse_overrides(["method=ffds", "method.k=0.5"])
    >>> tree.plain()
    {'method': {'name': 'ffds', 'k': 0.5}}
    """
    root = Node({}, "", COMMAND_LINE)
    problems: list[InputError] = []
    for override in overrides:
        key, equals, text = (part.strip() for part in override.partition("="))
        if not (key and equals):
            what, allowed = f"{override} is no override", "key=value, e.g. trainer.seed=1"
            problems.append(InputError(what, where=COMMAND_LINE, allowed=allowed))
            continue
        value, faults = parse_yaml(text, key=key)
        if key.count(".") >= MAX_DEPTH:
            what, got = "a key has too many parts", f"{key.count('.') + 1} parts: {key}"
            problems.append(InputError(what, where=COMMAND_LINE, got=got, allowed=f"{MAX_DEPTH} parts"))
        elif value is None:
            what, fix = f"cannot read the value of {key}", "put the value in quotes"
            problems.append(InputError(what, where=COMMAND_LINE, got=text, fix=fix))
        else:
            root = merge(root, _nested(key, value))
            problems += faults
    return root, problems


def override_texts(overrides: Mapping[str, Any]) -> list[str]:
    """Dotted keys and values from Python as ``key=value``, which is read back as the same values.

    >>> override_texts({"data.cut": (3, 4, 3), "data.root": "pics #2"})
    ['data.cut=[3, 4, 3]', "data.root='pics #2'"]
    """
    texts = []
    for key, value in overrides.items():
        try:
            plain = json.loads(json.dumps(value, default=os.fspath))
        except (TypeError, ValueError) as error:
            allowed = "text, a number, True, False, None, a path, or a list or a dict of these"
            raise InputError(f"{key} cannot have this value", got=repr(value), allowed=allowed) from error
        text = dump_yaml(plain).removesuffix("\n...\n").removesuffix("\n")
        texts.append(f"{key}={text}")
    return texts


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML with every default written out; `load_recipe` reads it back as an equal recipe."""
    return dump_yaml(recipe.model_dump(mode="json"))


def _nested(key: str, value: Node) -> Node:
    names = key.split(".")
    if names == ["method"] and not value.entries:
        names = ["method", "name"]
    for depth in range(len(names) - 1, -1, -1):
        value = Node({names[depth]: value}, ".".join(names[:depth]), COMMAND_LINE)
    return value


def _method(file: Node, command: Node) -> tuple[Node, list[InputError]]:
    """The section `method` of the recipe, from `method` and `methods` of the file and the command line.

    Settings beside the file's `method.name` belong to that method alone: another one named on the command
    line starts from its own entry of `methods`, or from its defaults. All methods are checked, chosen or not.
    """
    written, commanded = method_section(file), method_section(command)
    own, asked = written.entries.get("name"), commanded.entries.get("name")
    unknown = [name for name in (own, asked) if name and name.plain() not in [*SETTINGS]]
    problems = [unknown_method(name, name.plain()) for name in unknown]
    if written.entries and not own:
        allowed = ", ".join(METHODS)
        problems.append(InputError("missing key method.name", where=written.where, allowed=allowed))
    entries: dict[str, Node] = {}
    methods = merge(file, command).entries.get("methods", Node({}, "methods"))
    if not isinstance(methods.value, Mapping):
        problems.append(no_section(methods, METHODS))
    for name, entry in methods.entries.items():
        if name not in SETTINGS:
            problems.append(unknown_method(entry, name))
        elif not isinstance(entry.value, Mapping):
            problems.append(no_section(entry, SETTINGS[name].model_fields))
        else:
            entries[name] = entry
    if own and own not in unknown:
        entries[own.value] = merge(entries.get(own.value, replace(written, value={})), written)
    for name, entry in entries.items():
        problems += _faults(SETTINGS[name], entry)
    chosen = (None if unknown else asked or own) or Node("ce", "method.name")
    named = Node({"name": chosen}, "method", chosen.place, chosen.column)
    return merge(entries.get(chosen.value, named), named if unknown else merge(commanded, named)), problems


def _faults(model: type[Section], tree: Node) -> list[InputError]:
    try:
        model.model_validate(tree.plain())
    except ValidationError as failure:
        return explain(failure, model, tree)
    return []
