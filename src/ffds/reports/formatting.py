"""One number measured with several seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["MISSING", "Spread", "markdown_table"]

MISSING = "—"


@dataclass(frozen=True)
class Spread:
    """One accuracy over several seeds, in percent.

    >>> str(Spread((40.0, 42.0))), str(Spread((40.0,))), str(Spread(()))
    ('41.00 ± 1.41', '40.00', '—')
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float | None:
        """Mean over the seeds, None without any."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation over the seeds, None for fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def __str__(self) -> str:
        if self.mean is None:
            return MISSING
        return f"{self.mean:.2f}" + ("" if self.std is None else f" ± {self.std:.2f}")


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
