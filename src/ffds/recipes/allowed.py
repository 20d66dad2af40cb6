"""What may stand at a place of a recipe, in words, read from the types of its sections."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from ffds.recipes.section import Section

__all__ = ["Path", "allowed", "choices", "section_at"]

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
