"""Strict YAML: plain values only, each with its key and the place it was written at."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from ffds.errors import InputError

__all__ = ["COMMAND_LINE", "DEFAULT", "MAX_DEPTH", "Node", "dump_yaml", "merge", "parse_yaml"]

COMMAND_LINE, DEFAULT = "command line", "default"
# Far above any recipe, and low enough that aliases of aliases cannot fill the memory.
MAX_DEPTH, MAX_VALUES = 16, 10_000

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_NUMBER = r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
_UNQUOTED: dict[str, tuple[re.Pattern[str], Callable[[str], Any]]] = {
    "null": (re.compile(r"(|~|null)\Z"), lambda text: None),
    "bool": (re.compile(r"(true|false)\Z"), lambda text: text == "true"),
    "int": (re.compile(r"[-+]?(0|[1-9][0-9]{0,17})\Z"), int),
    "float": (re.compile(rf"({_NUMBER}|[-+]?\.(inf|nan))\Z"), lambda t: float(re.sub(r"\.([in])", r"\1", t))),
}
"""What an unquoted scalar can be besides text: the first type whose pattern matches."""


@dataclass(frozen=True)
class Node:
    """A scalar, a mapping of nodes or a tuple of nodes, with its dotted key and the place it comes from."""

    value: Any
    key: str
    place: str = DEFAULT
    """``FILE:LINE``, ``command line`` or ``default``."""
    column: int = 0
    """Counted from 1; 0 outside of files."""

    @property
    def where(self) -> str:
        """The place with its column, for messages."""
        return f"{self.place}:{self.column}" if self.column else self.place

    @property
    def entries(self) -> Mapping[str, Node]:
        """What the mapping holds; empty for every other value."""
        return self.value if isinstance(self.value, Mapping) else {}

    def plain(self) -> Any:
        """The value alone, in dicts, lists and scalars."""
        if isinstance(self.value, Mapping):
            return {name: node.plain() for name, node in self.value.items()}
        return [node.plain() for node in self.value] if isinstance(self.value, tuple) else self.value

    def nearest(self, path: Sequence[str | int]) -> tuple[Node, Sequence[str | int]]:
        """The last node along a path of names and list indices, and the part of the path beyond it."""
        children: Any = dict(enumerate(self.value)) if isinstance(self.value, tuple) else self.entries
        child = children.get(path[0]) if path else None
        return child.nearest(path[1:]) if child else (self, path)


def merge(base: Node, over: Node) -> Node:
    """`base` with `over` laid on top, mapping into mapping."""
    if not isinstance(base.value, Mapping) or not isinstance(over.value, Mapping):
        return over
    both = {name: merge(node, over.value[name]) for name, node in base.value.items() if name in over.value}
    return replace(base, value={**base.value, **over.value, **both})


def parse_yaml(text: str, source: str = "", key: str = "") -> tuple[Node | None, list[InputError]]:
    r"""The root of a document, None if it cannot be read, and everything that is wrong with it.

    Without a source it is the value of one override, for `key`, in which a comment is an error.

    >>> print(parse_yaml("lr: 1e-3\nlr: 2", "my.yaml")[1][0])
    key lr is given twice
      where:   my.yaml:1:1 and my.yaml:2:1
      fix:     keep one of them
    """
    reader = _Reader(text, source)
    try:
        return reader.document(key), reader.problems
    except InputError as error:
        return None, [*reader.problems, error]
    except (yaml.YAMLError, ValueError) as error:
        parts = (getattr(error, "context", None), getattr(error, "problem", None))
        what = ", ".join(filter(None, parts)) or str(error).partition("\n")[0]
        mark = getattr(error, "problem_mark", None)
        where = reader.at(mark).where if mark else source or COMMAND_LINE
        return None, [*reader.problems, InputError(f"not valid YAML: {what}", where=where)]


def dump_yaml(value: Any) -> str:
    """YAML text that `parse_yaml` reads back as the same value; keys in the order given.

    >>> print(dump_yaml({"cut": [35, 35, 30], "precision": "32", "root": None}), end="")
    cut: [35, 35, 30]
    precision: '32'
    root: null
    """
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return text


class _Dumper(yaml.SafeDumper):
    """Quotes all text that would be read as anything else here, e.g. ``1e-3``."""

    yaml_implicit_resolvers = {None: [(f"{_TAG}{tag}", at) for tag, (at, _) in _UNQUOTED.items()]}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(list, lambda dumper, items: dumper.represent_sequence(f"{_TAG}seq", items, True))
# Line breaks of Unicode survive in double quotes only.
_Dumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar(f"{_TAG}str", text, None if text.isprintable() else '"')
)


class _Reader:
    """Checks the events of a document, then makes nodes of what `yaml.compose` returns."""

    def __init__(self, text: str, source: str) -> None:
        self._text, self._source, self._count = text, source, 0
        self.problems: list[InputError] = []

    def at(self, mark: Any, key: str = "", value: Any = None) -> Node:
        """A node at a mark in the text."""
        if not self._source:
            return Node(value, key, COMMAND_LINE)
        return Node(value, key, f"{self._source}:{mark.line + 1}", mark.column + 1)

    def document(self, key: str) -> Node:
        """The root; raises what is wrong where nothing can be read."""
        end = self._checked_end()
        if not self._source and "#" in self._text[end:]:
            raise InputError("# begins a comment", where=COMMAND_LINE, fix="put the value in quotes")
        root = yaml.compose(self._text, Loader=_LOADER)
        value = self._value(root, key, 0) if root else None
        if self._source and not isinstance(value, Mapping):
            what = "the file is empty" if value is None else "not a mapping of keys to values"
            raise InputError(what, where=self._source)
        return Node(value, key, self._source or COMMAND_LINE)

    def _checked_end(self) -> int:
        """Where the last value ends; refuses tags, and nesting that would overflow the stack of `compose`."""
        depth = end = 0
        value_ends: Any = (yaml.ScalarEvent, yaml.CollectionEndEvent)
        for event in yaml.parse(self._text, Loader=_LOADER):
            if tag := getattr(event, "tag", None):
                allowed = "text, numbers, true, false, null, lists and mappings, without tags"
                self._report(f"tag {tag.replace(_TAG, '!!')} is refused", event, allowed=allowed)
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                what = f"nested more than {MAX_DEPTH} levels deep"
                raise InputError(what, where=self.at(event.start_mark).where)
            if isinstance(event, value_ends):
                end = event.end_mark.index
        return end

    def _report(self, what: str, at: Any, **fields: str) -> None:
        self.problems.append(InputError(what, where=self.at(at.start_mark).where, **fields))

    def _value(self, node: Any, key: str, depth: int) -> Any:
        self._count += 1
        if self._count > MAX_VALUES or depth > MAX_DEPTH:
            what = f"more than {MAX_VALUES} values or {MAX_DEPTH} levels, aliases counted in full"
            raise InputError(what, where=self.at(node.start_mark).where)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, key, depth + 1)
        if isinstance(node, yaml.SequenceNode):
            keys = [(item, f"{key}[{index}]") for index, item in enumerate(node.value)]
            return tuple(self.at(item.start_mark, k, self._value(item, k, depth + 1)) for item, k in keys)
        types = () if node.style else _UNQUOTED.values()
        return next((convert for pattern, convert in types if pattern.match(node.value)), str)(node.value)

    def _mapping(self, mapping: Any, section: str, depth: int) -> dict[str, Node]:
        inherited: dict[str, Node] = {}
        entries: dict[str, Node] = {}
        places: dict[str, str] = {}
        for key, value in mapping.value:
            where = self.at(key.start_mark).where
            if not isinstance(key, yaml.ScalarNode):
                raise InputError("a key must be a single word", where=where)
            path = f"{section}.{key.value}" if section else key.value
            if key.value in places:
                what, both = f"key {path} is given twice", f"{places[key.value]} and {where}"
                self.problems.append(InputError(what, where=both, fix="keep one of them"))
            elif key.value == "<<":
                # The entries of the first mapping go before those of the next.
                for source in reversed(value.value if isinstance(value, yaml.SequenceNode) else [value]):
                    if isinstance(source, yaml.MappingNode):
                        inherited |= self._value(source, section, depth)
                    else:
                        self._report("<< takes mappings only", source, allowed="<<: *anchor")
            else:
                entries[key.value] = self.at(key.start_mark, path, self._value(value, path, depth))
            places.setdefault(key.value, where)
        return inherited | entries
