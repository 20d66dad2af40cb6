"""Which method a run takes, and with which settings: the file's, and the command line's on top."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ffds.errors import InputError
from ffds.recipes.explain import unknown_method, wrong_type
from ffds.recipes.method_settings import METHODS, SETTINGS
from ffds.recipes.node import DEFAULT, Node, merge

__all__ = ["MethodChoice", "choose_method"]

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
