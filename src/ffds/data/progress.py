"""Saying how far long work on data has come: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar

__all__ = ["counted"]

Item = TypeVar("Item")


def counted(items: Sequence[Item], name: str) -> Iterator[Item]:
    """The items, one by one, with the progress on standard error.

    Args:
        items: what is worked through.
        name: what they are, in the plural.

    >>> list(counted([3, 1], "numbers"))
    [3, 1]
    """
    if not sys.stderr.isatty():
        yield from _told(items, name)
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(items, description=name, console=Console(stderr=True))


def _told(items: Sequence[Item], name: str) -> Iterator[Item]:
    total = len(items)
    for done, item in enumerate(items, start=1):
        yield item
        if 10 * done // total > 10 * (done - 1) // total:
            print(f"{name}: {done:,} of {total:,}", file=sys.stderr, flush=True)
