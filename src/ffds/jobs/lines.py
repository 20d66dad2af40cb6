"""Lines of several processes on one terminal: each whole, and each with the run it is about."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

__all__ = ["PrefixedLines"]


class PrefixedLines(io.TextIOBase):
    """A stream that passes on whole lines, each in one write, behind a prefix.

    It is no terminal, whatever lies behind it: where several processes write, none draws a bar.

    Args:
        behind: where the lines go.

    >>> import sys
    >>> lines = PrefixedLines(sys.stdout)
    >>> with lines.prefixed("ce seed 0: "):
    ...     print("epoch 1", "epoch 2", sep=chr(10), file=lines)
    ce seed 0: epoch 1
    ce seed 0: epoch 2
    """

    def __init__(self, behind: TextIO) -> None:
        self._behind, self._prefix, self._begun = behind, "", ""

    def write(self, text: str) -> int:
        """Pass on the lines that are whole by now."""
        *whole, self._begun = (self._begun + text).split("\n")
        if whole:
            self._behind.write("".join(f"{self._prefix}{line}\n" for line in whole))
            self._behind.flush()
        return len(text)

    def writable(self) -> bool:
        """It is."""
        return True

    @contextmanager
    def prefixed(self, prefix: str) -> Iterator[None]:
        """Put something in front of each line."""
        self._prefix = prefix
        try:
            yield
        finally:
            if self._begun:
                self.write("\n")
            self._prefix = ""
