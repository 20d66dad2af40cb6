"""Tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence

__all__ = ["cell", "plain", "print_json", "print_table"]


def cell(value: float | None) -> str:
    """A percentage with two digits."""
    return "n/a" if value is None else f"{value:.2f}"


def plain(value: object) -> str:
    """A setting as a person would write it."""
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)


def print_json(content: object) -> None:
    """Print JSON."""
    print(json.dumps(content, indent=2))


def print_table(title: str, rows: Sequence[Sequence[str]]) -> None:
    """Print a table whose first row is its header."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    header, *body = rows
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=0)
    for name in header:
        table.add_column(name, overflow="fold")
    for row in body:
        table.add_row(*map(Text, row))
    console = Console()
    with console.capture() as printed:
        console.print(table)
    print(printed.get(), end="")  # rich itself would end the process where the reader has left
