"""Error messages for recipes: what is wrong, where, what may stand there, and the nearest name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ffds.errors import InputError, nearest
from ffds.methods.base import Method
from ffds.methods.registry import METHODS, SETTINGS
from ffds.recipes.schema import SECTIONS, Recipe
from ffds.recipes.yaml_loader import Node, join_key, readable
from ffds.settings import Section, by_dotted_key

__all__ = [
    "Path",
    "allowed",
    "explain",
    "section_at",
    "section_keys",
    "unknown_method",
    "wrong_type",
]

Path = tuple[str | int, ...]
Schema = Mapping[str, Any]

_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}
_TYPES = {
    "number": "a finite number",
    "integer": "a whole number",
    "string": "text (in quotes if it looks like a number)",
    "boolean": "true or false",
    "array": "a list",
}
_WHAT = {
    "missing": "missing key {key}",
    "extra_forbidden": "unknown key {key}",
    "finite_number": "{key} is not a finite number",
    "literal_error": "unknown value of {key}",
    "string_pattern_mismatch": "unknown value of {key}",
    **dict.fromkeys(("too_short", "too_long"), "{key} has the wrong length"),
    **dict.fromkeys(
        ("greater_than", "greater_than_equal", "less_than", "less_than_equal"), "{key} is out of range"
    ),
}
"""Faults by pydantic's name for them; every other one is a wrong type."""


def section_at(model: type[Section], path: Path) -> tuple[type[Section], Path]:
    """The section of a recipe that a path leads into, and the rest of the path within it."""
    inner = SECTIONS.get(str(path[0])) if path and model is Recipe else None
    return (inner, path[1:]) if inner else (model, path)


def allowed(model: type[Section], path: Path) -> str:
    """What may stand at `path` below a section.

    >>> allowed(Recipe, ("data", "test_fraction"))
    'a finite number, above 0 and below 1'
    >>> allowed(Recipe, ("data", "cut"))
    'a list of 3, each a whole number, at least 1, or null'
    """
    section, rest = section_at(model, path)
    return _words(_schema(section, rest)) if rest else section_keys(section.model_fields)


def section_keys(names: Iterable[str]) -> str:
    """A section that may have these keys, in words."""
    return f"a section with the keys {', '.join(names)}"


def explain(failure: ValidationError, model: type[Section], tree: Node) -> list[InputError]:
    """Every fault pydantic found, one error each.

    Args:
        failure: what validating `tree` as `model` raised.
        model: the section that `tree` should have been.
        tree: the values, each with the key and place it was written at.
    """
    errors = []
    for details in failure.errors(include_url=False):
        path, section, node = details["loc"], model, tree
        if model is Recipe and path[:1] == ("method",) and len(path) > 1:
            # pydantic puts the method's name into the path of what is wrong with its settings.
            path, section, node = path[2:], SETTINGS[str(path[1])], tree.entries["method"]
        errors += _explain(details, path, section, node)
    return errors


def unknown_method(node: Node, given: object) -> InputError:
    """No method is called what was given at this node."""
    fix = nearest(str(given), METHODS)
    return InputError(
        "unknown method", where=node.where, got=_shown(given), allowed=", ".join(METHODS), fix=fix
    )


def wrong_type(node: Node, allowed: str) -> InputError:
    """Something of another kind should stand at this node."""
    what = f"{node.key} has the wrong type"
    return InputError(what, where=node.where, got=_shown(node.plain()), allowed=allowed)


@cache
def _json_schema(section: type[Section]) -> Schema:
    return section.model_json_schema()


def _schema(section: type[Section], rest: Path) -> Schema:
    schema: Schema = _json_schema(section)["properties"][rest[0]]
    for part in rest[1:]:
        listed = next(option for option in schema.get("anyOf", [schema]) if option.get("type") == "array")
        schema = listed["prefixItems"][part] if "prefixItems" in listed else listed["items"]
    return schema


def _words(schema: Schema) -> str:
    if "anyOf" in schema:
        return ", or ".join(_words(option) for option in schema["anyOf"])
    if "enum" in schema:
        return f"one of {', '.join(map(_name, schema['enum']))}"
    if "const" in schema or "pattern" in schema:
        return str(schema.get("const", schema.get("description")))
    words = _TYPES.get(schema["type"], str(schema["type"]))
    if schema["type"] == "array":
        return words + _item_words(schema)
    limits = [f"{word} {schema[name]}" for name, word in _LIMITS.items() if name in schema]
    return f"{words}, {' and '.join(limits)}" if limits else words


def _item_words(schema: Schema) -> str:
    if "items" in schema:
        length = f" of {schema['minItems']} to {schema['maxItems']}" if "minItems" in schema else ""
        return f"{length}, each {_words(schema['items'])}"
    items = [_words(item) for item in schema["prefixItems"]]
    return f" of {len(items)}, each {items[0]}" if len(set(items)) == 1 else f" [{'; '.join(items)}]"


def _name(value: object) -> str:
    """One of several values, as it is written in a recipe."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _explain(details: ErrorDetails, path: Path, model: type[Section], tree: Node) -> list[InputError]:
    kind, given = details["type"], details["input"]
    if kind == "missing" and isinstance(path[-1], int):
        kind, path = "too_short", path[:-1]
    node = tree.nearest(path)[0]
    if kind == "value_error":
        return [_disagreement(message, node) for message in str(details["ctx"]["error"]).splitlines()]
    key = join_key(node.key, str(path[-1])) if kind == "missing" else node.key
    what = _WHAT.get(kind, "{key} has the wrong type").replace("{key}", key)
    may_stand = allowed(model, path[:-1] if kind == "extra_forbidden" else path)
    fix = ""
    if kind == "literal_error":
        fix = nearest(str(given), may_stand.removeprefix("one of ").split(", "))
    elif kind == "extra_forbidden":
        section, name = section_at(model, path[:-1])[0], str(path[-1])
        fix = "; ".join(filter(None, [nearest(name, section.model_fields), _elsewhere(name, section)]))
    got = "" if kind == "missing" else _shown(given)
    return [InputError(what, where=node.where, got=got, allowed=may_stand, fix=fix)]


def _disagreement(message: str, section: Node) -> InputError:
    """A fault between fields, placed at those of them that were written down."""
    mentioned = [
        section.nearest(path.split("."))[0]
        for path in by_dotted_key({name: node.plain() for name, node in section.entries.items()})
        if re.search(rf"(?<![\w.]){re.escape(path)}(?![\w.])", message)
    ]
    nodes = mentioned or [section]
    keys = ", ".join(node.key for node in nodes if node.key)
    where = ", ".join(dict.fromkeys(node.where for node in nodes))
    return InputError(f"{keys}: {message}" if keys else message, where=where)


def _elsewhere(name: str, section: type[Section]) -> str:
    """Which methods, or which sections, have the setting that this one lacks."""
    if issubclass(section, Method):
        owners = [method for method, settings in METHODS.items() if name in settings.model_fields]
        return f"{name} is a setting of {', '.join(owners)}" if owners else ""
    keys = [f"{part}.{name}" for part, section in SECTIONS.items() if name in section.model_fields]
    return f"did you mean {' or '.join(keys)}?" if keys else ""


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return readable(text if len(text) <= 100 else f"{text[:100]} …")
