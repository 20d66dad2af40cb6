"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["markdown_table"]


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """A table, its first column set left and the numbers after it set right.

    Args:
        lines: header and rows, all of one length.

    >>> print(markdown_table([["method", "tail"], ["ce", "2.07"], ["d-ffds", "23.67"]]))
    | method | tail |
    | --- | ---: |
    | ce | 2.07 |
    | d-ffds | 23.67 |
    """
    header, *rows = lines
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *rows))
