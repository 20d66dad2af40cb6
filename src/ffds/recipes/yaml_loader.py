"""Values that know the key and the place they were written at."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import yaml

from ffds.errors import InputError

__all__ = [
    "COMMAND_LINE",
    "DEFAULT",
    "Document",
    "Node",
    "Place",
    "Scalar",
    "dump_yaml",
    "join_key",
    "merge",
    "parse_value",
    "parse_yaml",
    "readable",
]

Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Place:
    """Where something was written; `line` and `column` count from 1, line 0 = the source as a whole.

    >>> str(Place("my.yaml", 7, 3)), Place("my.yaml", 7, 3).exact, str(COMMAND_LINE)
    ('my.yaml:7', 'my.yaml:7:3', 'command line')
    """

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source

    @property
    def exact(self) -> str:
        """With the column, for messages."""
        return f"{self}:{self.column}" if self.line else self.source


COMMAND_LINE = Place("command line")
DEFAULT = Place("default")


@dataclass(frozen=True)
class Node:
    """A value, the key path it was written under and its place."""

    value: Scalar | Mapping[str, Node] | tuple[Node, ...]
    key: str
    place: Place

    @property
    def entries(self) -> Mapping[str, Node]:
        """What the mapping holds; empty for every other value."""
        return self.value if isinstance(self.value, Mapping) else {}

    @property
    def children(self) -> tuple[Node, ...]:
        """The nodes directly below: of a mapping or of a list."""
        return self.value if isinstance(self.value, tuple) else tuple(self.entries.values())

    @property
    def size(self) -> int:
        """Number of nodes from here down, itself included."""
        return 1 + sum(child.size for child in self.children)

    def plain(self) -> Any:
        """The value alone, in dicts, lists and scalars."""
        if isinstance(self.value, Mapping):
            return {name: node.plain() for name, node in self.value.items()}
        if isinstance(self.value, tuple):
            return [node.plain() for node in self.value]
        return self.value

    def nearest_to(self, path: tuple[str | int, ...]) -> Node:
        """The node at a path of names and list places, or the last one on the way there.

        >>> section = Node({"lr": Node(0.1, "optimizer.lr", COMMAND_LINE)}, "optimizer", COMMAND_LINE)
        >>> section.nearest_to(("lr",)).key, section.nearest_to(("momentum",)).key
        ('optimizer.lr', 'optimizer')
        """
        node = self
        for part in path:
            if isinstance(part, str):
                below = node.entries.get(part)
            else:
                below = node.value[part] if isinstance(node.value, tuple) and part < len(node.value) else None
            if below is None:
                return node
            node = below
        return node

    def leaves(self, prefix: str = "") -> Iterator[tuple[str, Node]]:
        """Every value that is not a mapping, with its dotted path from here."""
        for name, node in self.entries.items():
            path = join_key(prefix, name)
            if isinstance(node.value, Mapping):
                yield from node.leaves(path)
            else:
                yield path, node


def merge(base: Node, over: Node) -> Node:
    """`base` with everything `over` says laid on top, mapping into mapping.

    >>> one = Node({"lr": Node(0.1, "lr", COMMAND_LINE)}, "", COMMAND_LINE)
    >>> two = Node({"momentum": Node(0.9, "momentum", COMMAND_LINE)}, "", COMMAND_LINE)
    >>> merge(one, two).plain()
    {'lr': 0.1, 'momentum': 0.9}
    """
    if not isinstance(base.value, Mapping) or not isinstance(over.value, Mapping):
        return over
    merged = dict(base.value)
    for name, node in over.value.items():
        merged[name] = merge(merged[name], node) if name in merged else node
    return Node(merged, base.key, base.place)


def join_key(section: str, name: str) -> str:
    """Key path of `name` in a section."""
    return f"{section}.{readable(name)}" if section else readable(name)


def readable(text: str) -> str:
    r"""Text that is safe to print: control characters are shown, not sent to the terminal.

    >>> readable("résumé"), readable("a\x1b[2J")
    ('résumé', "'a\\x1b[2J'")
    """
    return text if text.isprintable() else ascii(text)


Event = Any  # which events have a tag or an anchor, the types of yaml do not tell
MAX_DEPTH = 16
MAX_NODES = 10_000
"""Far above any recipe, and low enough that aliases of aliases cannot fill the memory."""

_SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_TAG = "tag:yaml.org,2002:"
_PLAIN: tuple[tuple[str, re.Pattern[str], Callable[[str], Scalar]], ...] = tuple(
    (f"{_TAG}{tag}", re.compile(rf"(?:{pattern})\Z"), convert)
    for tag, pattern, convert in (
        ("null", "|~|null", lambda text: None),
        ("bool", "true|false", lambda text: text == "true"),
        ("int", "[-+]?(?:0|[1-9][0-9]{0,17})", int),
        ("float", r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", float),
        ("float", r"[-+]?\.(?:inf|nan)", lambda text: float(text.replace(".", ""))),
    )
)
"""What an unquoted scalar can be besides text, the first match counts."""


@dataclass(frozen=True)
class Document:
    """A parsed document: `root` is None if it could not be read at all; `problems` lists every fault."""

    root: Node | None
    problems: tuple[InputError, ...] = ()


def parse_yaml(text: str, source: str) -> Document:
    r"""One YAML document, a mapping; `source` is what messages call it.

    >>> parse_yaml("lr: 1e-3", "my.yaml").root.plain()
    {'lr': 0.001}
    >>> print(parse_yaml("lr: 1\nlr: 2", "my.yaml").problems[0])
    key lr is given twice
      where:   my.yaml:1:1 and my.yaml:2:1
      fix:     keep one of them
    """
    whole = Place(source)
    composer = _Composer(text, lambda mark: Place(source, mark.line + 1, mark.column + 1))
    document = composer.document("", whole)
    if document.root is None or isinstance(document.root.value, Mapping):
        return document
    what = "the file is empty" if document.root.value is None else "not a mapping of keys to values"
    return Document(None, (*document.problems, InputError(what, where=whole.exact)))


def parse_value(text: str, key: str) -> Document:
    """The value of one override, by the same rules as in a file, but for comments: they are refused.

    >>> parse_value("[3, 4, 3]", "data.cut").root.plain()
    [3, 4, 3]
    """
    document = _Composer(text, lambda mark: COMMAND_LINE).document(key, COMMAND_LINE)
    if document.root is not None and "#" in text[_end_of_value(text) :]:
        comment = InputError("# begins a comment", where=COMMAND_LINE, fix="put the value in quotes")
        return Document(None, (*document.problems, comment))
    return document


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

    yaml_implicit_resolvers = {None: [(tag, pattern) for tag, pattern, _ in _PLAIN]}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(list, lambda dumper, items: dumper.represent_sequence(f"{_TAG}seq", items, True))
# Line breaks of Unicode survive in double quotes only.
_Dumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar(f"{_TAG}str", text, None if text.isprintable() else '"')
)


class _Composer:
    """Nodes from the events of the safe loader, which makes no objects and does not recurse."""

    def __init__(self, text: str, place: Callable[[Any], Place]) -> None:
        self._place = place
        self._events = self._read(text)
        self._anchors: dict[str, Node] = {}
        self._count = 0
        self._problems: list[InputError] = []

    def document(self, key: str, whole: Place) -> Document:
        try:
            root = self._root(key, whole)
        except InputError as error:
            return Document(None, (*self._problems, error))
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            place, problem = whole, str(error).partition("\n")[0]
            if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
                place, problem = self._place(error.problem_mark), error.problem or problem
            broken = InputError(f"not valid YAML: {readable(problem)}", where=place.exact)
            return Document(None, (*self._problems, broken))
        return Document(root, tuple(self._problems))

    def _root(self, key: str, whole: Place) -> Node:
        next(self._events)
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return Node(None, key, whole)
        root = replace(self._node(next(self._events), key, 0), place=whole)
        next(self._events)
        extra = next(self._events)
        if not isinstance(extra, yaml.StreamEndEvent):
            raise InputError("more than one YAML document", where=self._place(extra.start_mark).exact)
        return root

    def _node(self, event: Event, key: str, depth: int) -> Node:
        place = self._place(event.start_mark)
        if depth > MAX_DEPTH:
            raise InputError(f"nested more than {MAX_DEPTH} levels deep", where=place.exact)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(str(event.anchor), place)
        self._add(1, place)
        self._refuse_tag(event, place)
        node = Node(self._value(event, key, depth + 1), key, place)
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _value(self, event: Event, key: str, depth: int) -> Any:
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event)
        if isinstance(event, yaml.SequenceStartEvent):
            return tuple(self._items(key, depth))
        return self._mapping(key, depth)

    def _items(self, key: str, depth: int) -> Iterator[Node]:
        index = 0
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            yield self._node(event, f"{key}[{index}]", depth)
            index += 1

    def _mapping(self, section: str, depth: int) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            place = self._place(event.start_mark)
            if not isinstance(event, yaml.ScalarEvent):
                raise InputError("a key must be a single word", where=place.exact)
            self._refuse_tag(event, place)
            key = join_key(section, event.value)
            node = replace(self._node(next(self._events), key, depth), key=key, place=place)
            first = entries.setdefault(event.value, node)
            if first is not node:
                where = f"{first.place.exact} and {place.exact}"
                self._report(f"key {key} is given twice", where=where, fix="keep one of them")
        return self._merged(entries)

    def _merged(self, entries: dict[str, Node]) -> dict[str, Node]:
        """Resolve the merge key ``<<``: what is written beside it wins, then the first of its mappings."""
        merged = entries.pop("<<", None)
        if merged is None:
            return entries
        sources = merged.value if isinstance(merged.value, tuple) else (merged,)
        if not all(isinstance(source.value, Mapping) for source in sources):
            self._report("<< takes mappings only", where=merged.place.exact, allowed="<<: *anchor")
        inherited = {name: node for source in reversed(sources) for name, node in source.entries.items()}
        return {**inherited, **entries}

    def _alias(self, anchor: str, place: Place) -> Node:
        node = self._anchors.get(anchor)
        if node is None:
            raise InputError(f"alias *{anchor} has no anchor before it", where=place.exact)
        self._add(node.size, place)
        return node

    def _add(self, nodes: int, place: Place) -> None:
        self._count += nodes
        if self._count > MAX_NODES:
            raise InputError(f"more than {MAX_NODES} values, aliases counted in full", where=place.exact)

    def _refuse_tag(self, event: Event, place: Place) -> None:
        if event.tag is not None:
            allowed = "text, numbers, true, false, null, lists and mappings, without tags"
            tag = readable(event.tag.replace(_TAG, "!!"))
            self._report(f"tag {tag} is refused", where=place.exact, allowed=allowed)

    def _report(self, what: str, **fields: str) -> None:
        self._problems.append(InputError(what, **fields))

    @staticmethod
    def _read(text: str) -> Iterator[Event]:
        return iter(yaml.parse(text, Loader=_SAFE_LOADER))


def _end_of_value(text: str) -> int:
    """Where the last value of a document ends, which is known to be valid; behind it are comments only."""
    events = yaml.parse(text, Loader=_SAFE_LOADER)
    ends: Any = (yaml.ScalarEvent, yaml.CollectionEndEvent)
    return max((event.end_mark.index for event in events if isinstance(event, ends)), default=0)


def _scalar(event: Event) -> Scalar:
    text: str = event.value
    if event.implicit[0]:
        for _, pattern, convert in _PLAIN:
            if pattern.match(text):
                return convert(text)
    return text
