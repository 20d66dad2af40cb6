"""Error messages for recipes: what is wrong, where, what may stand there, and the nearest name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ffds.errors import MOST_ERRORS, InputError, nearest
from ffds.methods.base import Method
from ffds.methods.registry import METHODS, SETTINGS
from ffds.recipes.schema import SECTIONS, Recipe
from ffds.recipes.yaml_loader import Node
from ffds.settings import Section, by_dotted_key

__all__ = ["allowed", "explain", "no_section", "unknown_method"]

Path = tuple[str | int, ...]
Schema = Mapping[str, Any]

_LIMITS = {"minimum": "at least", "exclusiveMinimum": "above"}
_LIMITS |= {"maximum": "at most", "exclusiveMaximum": "below"}
_TYPES = {
    "number": "a finite number",
    "integer": "a whole number",
    "string": "text (in quotes if it looks like a number)",
    "boolean": "true or false",
    "null": "null",
}
_FAULTS = {
    "missing": "missing key {key}",
    "extra_forbidden": "unknown key {key}",
    "finite_number": "{key} is not a finite number",
    **dict.fromkeys(("literal_error", "string_pattern_mismatch"), "unknown value of {key}"),
    **dict.fromkeys(("too_short", "too_long"), "{key} has the wrong length"),
    **dict.fromkeys(("greater_than", "greater_than_equal"), "{key} is out of range"),
    **dict.fromkeys(("less_than", "less_than_equal"), "{key} is out of range"),
}
"""Faults by pydantic's name for them; every other one is a wrong type."""


def allowed(section: type[Section], path: Path) -> str:
    """What may stand at `path`, which begins with a field of the section, in words.

    >>> allowed(SECTIONS["data"], ("cut",))
    'a list of 3, each a whole number, at least 1, or null'
    """
    inner = SECTIONS.get(str(path[0])) if section is Recipe else None
    return _section(inner.model_fields) if inner else _words(_schema(section, path))


def explain(failure: ValidationError, model: type[Section], tree: Node) -> list[InputError]:
    """Every fault pydantic found in `tree`, read as `model`: one error each."""
    errors: list[InputError] = []
    of_unions: dict[str, list[tuple[bool, InputError]]] = {}
    for number, details in enumerate(failure.errors(include_url=False)):
        if number >= MOST_ERRORS:
            errors.append(InputError(f"{details['loc']}"))  # counted, not shown
            continue
        path, section, node = details["loc"], model, tree
        if model is Recipe and len(path) > 1:
            node, method = tree.entries[str(path[0])], path[0] == "method"
            # pydantic puts the method's name into the path of what is wrong with its settings.
            section = SETTINGS[str(path[1])] if method else SECTIONS[str(path[0])]
            path = path[2:] if method else path[1:]
        places = tuple(part for part in path[1:] if isinstance(part, int))
        explained = _explain(details, (*path[:1], *places), section, node)
        if len(places) == len(path[1:]):
            errors += explained
        else:  # of several types that the value may have, each has its fault: that of the right type is meant
            has_type = bool(places) or not details["type"].endswith(("_type", "literal_error"))
            of_unions.setdefault(f"{node.key}.{path[0]}", []).append((has_type, explained[0]))
    return errors + [max(faults, key=lambda fault: fault[0])[1] for faults in of_unions.values()]


def unknown_method(node: Node, given: object) -> InputError:
    """No method is called what was given at this node."""
    names, fix = ", ".join(METHODS), nearest(str(given), METHODS)
    return InputError("unknown method", where=node.where, got=_shown(given), allowed=names, fix=fix)


def no_section(node: Node, keys: Iterable[str]) -> InputError:
    """A section with these keys should stand at this node."""
    what = f"{node.key} has the wrong type"
    return InputError(what, where=node.where, got=_shown(node.plain()), allowed=_section(keys))


def _section(keys: Iterable[str]) -> str:
    return f"a section with the keys {', '.join(keys)}"


@cache
def _schema(section: type[Section], path: Path) -> Schema:
    schema: Schema = section.model_json_schema()["properties"][path[0]]
    for part in path[1:]:
        listed = next(option for option in schema.get("anyOf", [schema]) if option.get("type") == "array")
        schema = listed["prefixItems"][part] if "prefixItems" in listed else listed["items"]
    return schema


def _words(schema: Schema) -> str:
    if "anyOf" in schema:
        return ", or ".join(map(_words, schema["anyOf"]))
    if "enum" in schema:
        return "one of " + ", ".join(json.dumps(value).strip('"') for value in schema["enum"])
    if "const" in schema or "pattern" in schema:
        return str(schema.get("const", schema.get("description")))
    if "prefixItems" in schema:
        items = list(map(_words, schema["prefixItems"]))
        alike = len(set(items)) == 1
        return f"a list of {len(items)}, each {items[0]}" if alike else f"a list [{'; '.join(items)}]"
    if "items" in schema:
        length = f" of {schema['minItems']} to {schema['maxItems']}" if "minItems" in schema else ""
        return f"a list{length}, each {_words(schema['items'])}"
    limits = [f"{word} {schema[name]}" for name, word in _LIMITS.items() if name in schema]
    return ", ".join([_TYPES[schema["type"]], *([" and ".join(limits)] if limits else [])])


def _explain(details: ErrorDetails, path: Path, section: type[Section], tree: Node) -> list[InputError]:
    kind, got, fix = details["type"], _shown(details["input"]), ""
    if kind == "missing" and isinstance(path[-1], int):
        kind, path = "too_short", path[:-1]
    node = tree.nearest(path)[0]
    if kind == "value_error":
        return [_disagreement(message, node) for message in str(details["ctx"]["error"]).splitlines()]
    key, keys = node.key, section.model_fields
    may_stand = _section(keys) if kind == "extra_forbidden" else allowed(section, path)
    if kind == "missing":
        key, got = f"{key}.{path[-1]}".removeprefix("."), ""
    elif kind == "literal_error":
        fix = nearest(str(details["input"]), may_stand.removeprefix("one of ").split(", "))
    elif kind == "extra_forbidden":
        name = str(path[-1])
        fix = "; ".join(filter(None, [nearest(name, keys), _elsewhere(name, section)]))
    what = _FAULTS.get(kind, "{key} has the wrong type").format(key=key)
    return [InputError(what, where=node.where, got=got, allowed=may_stand, fix=fix)]


def _disagreement(message: str, section: Node) -> InputError:
    """A fault between fields, placed at those of them that were written down."""
    nodes = [
        section.nearest(path.split("."))[0]
        for path in by_dotted_key(section.plain() if section.entries else {})
        if re.search(rf"(?<![\w.]){re.escape(path)}(?![\w.])", message)
    ] or [section]
    keys = ", ".join(node.key for node in nodes if node.key)
    where = ", ".join(dict.fromkeys(node.where for node in nodes))
    return InputError(f"{keys}: {message}" if keys else message, where=where)


def _elsewhere(name: str, section: type[Section]) -> str:
    """Which methods, or which sections, have the setting that this one lacks."""
    if issubclass(section, Method):
        owners = [method for method, settings in METHODS.items() if name in settings.model_fields]
        return f"{name} is a setting of {', '.join(owners)}" if owners else ""
    keys = [f"{part}.{name}" for part, other in SECTIONS.items() if name in other.model_fields]
    return f"did you mean {' or '.join(keys)}?" if keys else ""


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:100]} …"
