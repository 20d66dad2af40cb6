"""What is wrong with a recipe, in the words of its author: every message names key, place and remedy."""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ffds.errors import InputError, nearest
from ffds.recipes.allowed import Path, allowed, choices, section_at
from ffds.recipes.method_settings import METHODS
from ffds.recipes.node import Node, Place, join_key, readable
from ffds.recipes.schema import Recipe
from ffds.recipes.section import Section

__all__ = ["explain", "unknown_method", "wrong_type"]

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
