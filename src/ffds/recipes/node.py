"""Values that know the key and the place they were written at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["COMMAND_LINE", "DEFAULT", "Node", "Place", "Scalar", "join_key", "merge", "readable"]

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
