"""The page of all settings, written from the schema.

``python -m ffds.recipes.settings_page docs/settings.md`` writes it. The meaning of a key is the docstring
below its field.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ffds.methods.base import Method
from ffds.methods.registry import METHODS
from ffds.recipes.messages import allowed
from ffds.recipes.schema import SECTIONS, Recipe
from ffds.settings import Role, Section

__all__ = ["key_rows", "meaning", "settings_page"]

_INTRODUCTION = """# All settings

Every key of a recipe, as it stands in a YAML file (`schedule: {epochs: 30}`) or on the command line
(`schedule.epochs=30`). `ffds show RECIPE` prints the values of a recipe and where each comes from,
`ffds show RECIPE --yaml` prints it as a file. The last column says what a change of the key means for a run:

- *result*: it decides what is trained or measured. Another value is another run, with its own directory.
- *way*: it decides how a machine does the same training. Another value is another run, whose numbers may
  differ in the last digits.
- *none*: it changes no number. The run stays the same, and may go on with another value.

This page is written from the schema by `python -m ffds.recipes.settings_page docs/settings.md`."""


def settings_page() -> str:
    """The whole page in Markdown."""
    name = _table(Recipe, ["name"], "")
    parts = [_INTRODUCTION, "## The recipe", name]
    for part, section in SECTIONS.items():
        parts += [f"## {part}", _about(section), _table(section, section.model_fields, part)]
    common = list(Method.model_fields)
    parts += ["## method", "The keys of every method; `method=NAME` on the command line takes another one."]
    parts.append(_table(Method, common, "method"))
    for method, settings in METHODS.items():
        own = [key for key in settings.model_fields if key not in common or _differs(settings, key)]
        parts += [f"### method {method}", _about(settings)]
        if own:
            parts.append(_table(settings, own, "method"))
    return "\n\n".join(parts) + "\n"


@cache
def meaning(section: type[Section], key: str) -> str:
    """The docstring below a field, in one line; empty where there is none."""
    for owner in section.__mro__:
        if owner is not Section and issubclass(owner, Section):
            (body,) = ast.parse(inspect.cleandoc("\n" + inspect.getsource(owner))).body
            for field, text in _documented(body):
                if field == key:
                    return " ".join(text.split())
    return ""


def _documented(body: Any) -> Iterator[tuple[str, str]]:
    """Each field of a class with the text in the line below it."""
    for field, below in zip(body.body, body.body[1:], strict=False):
        text = below.value if isinstance(below, ast.Expr) else None
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(text, ast.Constant)
            and isinstance(text.value, str)
        ):
            yield ast.unparse(field.target), text.value


def _differs(settings: type[Section], key: str) -> bool:
    return key != "name" and settings.model_fields[key].default != Method.model_fields[key].default


def _about(section: type[Section]) -> str:
    return inspect.cleandoc(section.__doc__ or "")


def key_rows(section: type[Section], keys: Iterable[str], part: str) -> list[list[str]]:
    """Of each key of a section its dotted name, its values, its default in JSON and its meaning."""
    rows = []
    for key in keys:
        field = section.model_fields[key]
        default = "" if field.is_required() else json.dumps(field.default)
        name = f"{part}.{key}" if part else key
        rows.append([name, allowed(section, (key,)), default, meaning(section, key)])
    return rows


def _table(section: type[Section], keys: Iterable[str], part: str) -> str:
    keys = list(keys)
    lines = [["key", "values", "default", "meaning", "changes"], ["---"] * 5]
    for key, (name, values, default, text) in zip(keys, key_rows(section, keys, part), strict=True):
        effect = _effect(section.model_fields[key].metadata)
        lines.append([f"`{name}`", values, default and f"`{default}`", text, effect])
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _effect(roles: list[Any]) -> str:
    if Role.NEUTRAL in roles or Role.PLACE in roles:
        return "none"
    return "way" if Role.RUNNING in roles or Role.LOADING in roles else "result"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(settings_page(), encoding="utf-8")
