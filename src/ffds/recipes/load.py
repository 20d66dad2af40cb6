"""A recipe from its text, the command line and the defaults, with the origin of each value."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from ffds.errors import InputError, nearest
from ffds.methods.registry import METHODS, SETTINGS
from ffds.recipes.messages import explain, unknown_method, wrong_type
from ffds.recipes.schedule import leaves
from ffds.recipes.schema import Recipe
from ffds.recipes.yaml_loader import (
    COMMAND_LINE,
    DEFAULT,
    Node,
    Place,
    dump_yaml,
    merge,
    parse_value,
    parse_yaml,
    readable,
)
from ffds.settings import Section

__all__ = [
    "MethodChoice",
    "Resolved",
    "Source",
    "choose_method",
    "dump_recipe",
    "load_recipe",
    "override_texts",
    "parse_overrides",
    "planned_recipe",
    "read_recipe",
    "recipe_text",
    "shipped_recipes",
]

MAX_BYTES = 2**20


@dataclass(frozen=True)
class Source:
    """The text of a recipe, what messages call it, and the name it has unless it says another."""

    text: str
    label: str
    name: str


def shipped_recipes() -> dict[str, str]:
    """Name and title of every shipped recipe; the title is the first line of its header comment.

    >>> shipped_recipes()["cifar100-lt-100"]
    'CIFAR-100-LT, imbalance factor 100: 100 classes with 500 down to 5 training images'
    """
    return {name: recipe_text(name).partition("\n")[0].lstrip("# ") for name in _names()}


def recipe_text(name: str) -> str:
    """The YAML text of a shipped recipe.

    Raises:
        InputError: there is no such recipe; the message lists all and names the nearest.
    """
    if name not in _names():
        allowed = f"{', '.join(_names())}, or the path of a .yaml file"
        raise InputError(f"unknown recipe {name!r}", allowed=allowed, fix=nearest(name, _names()))
    return files(__package__).joinpath(f"{name}.yaml").read_text("utf-8")


def read_recipe(name_or_path: str) -> Source:
    """A shipped recipe by its name, or a file if what is given has a directory or ends in ``.yaml``.

    Raises:
        InputError: no such recipe or file, not UTF-8 text, or more than 1 MiB of it.
    """
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"} or os.sep in name_or_path:
        label = readable(name_or_path)
        return Source(_file_text(path, label), label, path.stem)
    return Source(recipe_text(name_or_path), f"{name_or_path}.yaml", name_or_path)


def _file_text(path: Path, label: str) -> str:
    try:
        if not path.is_file():
            raise InputError("no such recipe file", where=label, fix=nearest(path.stem, _names()))
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError("the recipe cannot be read", where=label, got=error.strerror) from error
    if len(content) > MAX_BYTES:
        raise InputError("the file is too large for a recipe", where=label, allowed=f"{MAX_BYTES} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError("not UTF-8 text", where=f"{label}:{line}", fix="save the file as UTF-8") from error


def _names() -> list[str]:
    found = (entry.name for entry in files(__package__).iterdir())
    return sorted(name.removesuffix(".yaml") for name in found if name.endswith(".yaml"))


def parse_overrides(overrides: Sequence[str]) -> tuple[Node, list[InputError]]:
    """All overrides in one tree; of two for the same key the later counts.

    Args:
        overrides: each a dotted key and a value by the rules of the file: ``data.cut=[3,4,3]``.

    Returns:
        The tree, and what is wrong with those overrides that are not in it.

    >>> tree, problems = parse_overrides(["method=ffds", "method.k=0.5"])
    >>> tree.plain()
    {'method': {'name': 'ffds', 'k': 0.5}}
    """
    root = Node({}, "", COMMAND_LINE)
    problems: list[InputError] = []
    for override in overrides:
        key, equals, text = (part.strip() for part in override.partition("="))
        if not (key and equals):
            what = f"{readable(override)} is no override"
            problems.append(InputError(what, where=COMMAND_LINE, allowed="key=value, e.g. trainer.seed=1"))
            continue
        value = parse_value(text, key)
        if value.root is None:
            what = f"cannot read the value of {readable(key)}"
            fix = "put the value in quotes"
            problems.append(InputError(what, where=COMMAND_LINE, got=readable(text), fix=fix))
            continue
        problems.extend(value.problems)
        root = merge(root, _nested(key, value.root))
    return root, problems


def _nested(key: str, value: Node) -> Node:
    names = key.split(".")
    if names == ["method"] and not value.entries:
        names = ["method", "name"]
    for depth in range(len(names) - 1, -1, -1):
        value = Node({names[depth]: value}, ".".join(names[:depth]), COMMAND_LINE)
    return value


_EMPTY = Node({}, "method", DEFAULT)
_CROSS_ENTROPY = Node("ce", "method.name", DEFAULT)


@dataclass(frozen=True)
class MethodChoice:
    """The outcome of the choice.

    Attributes:
        name: the method.
        settings: the section `method` of the recipe, with this name.
        entries: what the file has for each method, to be validated whether chosen or not.
        problems: names that are missing or that no method has, entries that are no sections.
    """

    name: str
    settings: Node
    entries: Mapping[str, Node]
    problems: tuple[InputError, ...]


def choose_method(file: Node, command: Node) -> MethodChoice:
    """Settle the sections `method` and `methods` of a file under those of the command line.

    Settings beside the file's `method.name` belong to that method alone: another one named on the command
    line starts from its own entry of `methods`, or from its defaults.
    """
    written, commanded = _method_section(file), _method_section(command)
    methods = merge(file, command).entries.get("methods", _EMPTY)
    unusable = [*_name_faults(written, required=True), *_name_faults(commanded, required=False)]
    problems = (*_entry_faults(methods), *unusable)
    entries = {
        name: Node({"name": Node(name, node.key, node.place), **node.entries}, node.key, node.place)
        for name, node in methods.entries.items()
        if name in SETTINGS and isinstance(node.value, Mapping)
    }
    if unusable:
        return MethodChoice("ce", _section(_CROSS_ENTROPY), entries, problems)
    own = written.entries.get("name")
    if own is not None:
        entries[own.plain()] = merge(entries.get(own.plain(), _section(own)), written)
    chosen = commanded.entries.get("name", own or _CROSS_ENTROPY)
    settings = merge(entries.get(chosen.plain(), _EMPTY), merge(commanded, _section(chosen)))
    return MethodChoice(chosen.plain(), settings, entries, problems)


def _method_section(root: Node) -> Node:
    """The section `method`, where the name alone may stand for the section."""
    node = root.entries.get("method", _EMPTY)
    return node if isinstance(node.value, Mapping) else _section(node)


def _section(name: Node) -> Node:
    return Node({"name": name}, "method", name.place)


def _name_faults(section: Node, *, required: bool) -> Iterator[InputError]:
    name = section.entries.get("name")
    if name is not None:
        if not isinstance(name.value, str) or name.value not in SETTINGS:
            yield unknown_method(name.place, name.plain())
    elif required and section.entries:
        yield InputError("missing key method.name", where=section.place.exact, allowed=", ".join(METHODS))


def _entry_faults(methods: Node) -> Iterator[InputError]:
    if not isinstance(methods.value, Mapping):
        yield wrong_type(methods, allowed=f"a section with the keys {', '.join(METHODS)}")
    for name, node in methods.entries.items():
        if name not in SETTINGS:
            yield unknown_method(node.place, name)
        elif not isinstance(node.value, Mapping):
            yield wrong_type(
                node, allowed=f"a section with the keys {', '.join(SETTINGS[name].model_fields)}"
            )


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
