"""``key=value`` from the command line, as a tree like that of a file."""

from __future__ import annotations

from collections.abc import Sequence

from ffds.errors import InputError
from ffds.recipes.node import COMMAND_LINE, Node, merge, readable
from ffds.recipes.yaml_text import parse_value

__all__ = ["parse_overrides"]


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
