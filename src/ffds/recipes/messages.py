"""What may stand at a place of a recipe, in words, read from the types of its sections."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ffds.errors import InputError, nearest
from ffds.methods.registry import METHODS
from ffds.recipes.schema import Recipe
from ffds.recipes.yaml_loader import Node, Place, join_key, readable
from ffds.settings import Section

__all__ = ["Path", "allowed", "choices", "explain", "section_at", "unknown_method", "wrong_type"]

Path = tuple[str | int, ...]
Schema = Mapping[str, Any]

_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}
_WORDS = {
    "number": "a finite number",
    "integer": "a whole number",
    "string": "text (in quotes if it looks like a number)",
    "boolean": "true or false",
    "array": "a list",
}


def section_at(model: type[Section], path: Path) -> tuple[type[Section], Path]:
    """The innermost section on the way along a path, and the rest of the path within it."""
    for index, part in enumerate(path):
        field = model.model_fields.get(str(part))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, Section)):
            return model, path[index:]
        model = inner
    return model, ()


def allowed(model: type[Section], path: Path) -> str:
    """What may stand at `path` below a section.

    >>> from ffds.recipes.schema import Recipe
    >>> allowed(Recipe, ("data", "test_fraction"))
    'a finite number, above 0 and below 1'
    >>> allowed(Recipe, ("data", "cut"))
    'a list of 3, each a whole number, at least 1, or null'
    """
    section, rest = section_at(model, path)
    return (
        _words(_schema(section, rest))
        if rest
        else f"a section with the keys {', '.join(section.model_fields)}"
    )


def choices(model: type[Section], path: Path) -> list[str]:
    """The names that may stand at `path`; empty where any value of a type may."""
    section, rest = section_at(model, path)
    return [_name(value) for value in _schema(section, rest).get("enum", [])] if rest else []


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
    if "const" in schema:
        return str(schema["const"])
    words = _WORDS.get(schema["type"], str(schema["type"]))
    if "pattern" in schema:
        return str(schema["description"])
    if schema["type"] == "array":
        return words + _items_words(schema)
    limits = [f"{word} {schema[name]}" for name, word in _LIMITS.items() if name in schema]
    return f"{words}, {' and '.join(limits)}" if limits else words


def _name(value: object) -> str:
    """One of several values, as it is written in a recipe."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _items_words(schema: Schema) -> str:
    if "prefixItems" not in schema:
        length = f" of {schema['minItems']} to {schema['maxItems']}" if "minItems" in schema else ""
        return f"{length}, each {_words(schema['items'])}"
    items = [_words(item) for item in schema["prefixItems"]]
    return f" of {len(items)}, each {items[0]}" if len(set(items)) == 1 else f" [{'; '.join(items)}]"


_RANGE = "{key} is out of range"
_WHAT = {
    "missing": "missing key {key}",
    "extra_forbidden": "unknown key {key}",
    "finite_number": "{key} is not a finite number",
    "greater_than": _RANGE,
    "greater_than_equal": _RANGE,
    "less_than": _RANGE,
    "less_than_equal": _RANGE,
    "literal_error": "unknown value of {key}",
    "string_pattern_mismatch": "unknown value of {key}",
    "too_short": "{key} has the wrong length",
    "too_long": "{key} has the wrong length",
}
"""Kinds of fault by pydantic's name for them; every other kind is a wrong type."""


def explain(failure: ValidationError, model: type[Section], tree: Node) -> list[InputError]:
    """Every fault pydantic found, one error each.

    A recipe's section `method` is left out: it is explained as the class of its own method.

    Args:
        failure: what validating `tree` as `model` raised.
        model: the section that `tree` should have been.
        tree: the values, each with the key and place it was written at.
    """
    return [
        error
        for details in failure.errors(include_url=False)
        if not (model is Recipe and details["loc"][:1] == ("method",))
        for error in _explain(details, model, tree)
    ]


def unknown_method(place: Place, given: object) -> InputError:
    """No method is called what was given there."""
    return InputError(
        "unknown method",
        where=place.exact,
        got=_shown(given),
        allowed=", ".join(METHODS),
        fix=nearest(str(given), METHODS),
    )


def wrong_type(node: Node, allowed: str) -> InputError:
    """Something of another kind should stand at this node."""
    where = node.place.exact
    return InputError(
        f"{node.key} has the wrong type", where=where, got=_shown(node.plain()), allowed=allowed
    )


def _explain(details: ErrorDetails, model: type[Section], tree: Node) -> list[InputError]:
    kind, path = details["type"], details["loc"]
    if kind == "value_error":
        messages = str(details["ctx"]["error"]).splitlines()
        return [_disagreement(message, tree.nearest_to(path)) for message in messages]
    if kind == "missing" and isinstance(path[-1], int):
        kind, path = "too_short", path[:-1]
    node = tree.nearest_to(path)
    key = join_key(node.key, str(path[-1])) if kind == "missing" else node.key
    error = InputError(
        _WHAT.get(kind, "{key} has the wrong type").replace("{key}", key),
        where=node.place.exact,
        got="" if kind == "missing" else _shown(details["input"]),
        allowed=allowed(model, path[:-1] if kind == "extra_forbidden" else path),
        fix=_fix(kind, model, path, details["input"]),
    )
    return [error]


def _disagreement(message: str, node: Node) -> InputError:
    """A fault between fields, placed at those of them that were written down."""
    mentioned = [
        leaf for path, leaf in node.leaves() if re.search(rf"(?<![\w.]){re.escape(path)}(?![\w.])", message)
    ]
    nodes = mentioned or [node]
    keys = ", ".join(leaf.key for leaf in nodes if leaf.key)
    where = ", ".join(dict.fromkeys(leaf.place.exact for leaf in nodes))
    return InputError(f"{keys}: {message}" if keys else message, where=where)


def _fix(kind: str, model: type[Section], path: Path, given: Any) -> str:
    if kind == "literal_error":
        return nearest(str(given), choices(model, path))
    if kind == "extra_forbidden":
        section, name = section_at(model, path[:-1])[0], str(path[-1])
        return "; ".join(filter(None, [nearest(name, section.model_fields), _elsewhere(name, section)]))
    return ""


def _elsewhere(name: str, section: type[Section]) -> str:
    """Which methods, or which sections, have the setting that this one lacks."""
    if section in METHODS.values():
        owners = [method for method, settings in METHODS.items() if name in settings.model_fields]
        return f"{name} is a setting of {', '.join(owners)}" if owners else ""
    sections = [part for part in Recipe.model_fields if name in section_at(Recipe, (part,))[0].model_fields]
    keys = [f"{part}.{name}" for part in sections if section_at(Recipe, (part,))[0] is not Recipe]
    return f"did you mean {' or '.join(keys)}?" if keys else ""


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return readable(text if len(text) <= 100 else f"{text[:100]} …")
