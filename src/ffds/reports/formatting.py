"""How reports write numbers: a measure over several seeds, a table in Markdown, where runs were measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ffds.errors import one_line

__all__ = ["MISSING", "NOT_APPLICABLE", "Spread", "markdown_line", "markdown_table", "provenance"]

MISSING = "—"
NOT_APPLICABLE = "n/a"
"""The accuracy of a group whose classes have no test image."""


@dataclass(frozen=True)
class Spread:
    """One measure over several seeds; `empty` is written where there is no value.

    >>> [str(Spread(values)) for values in ((40.0, 42.0), (5.0, 5.0), (40.0,), ())]
    ['41.00 ± 1.41', '5.00 ± 0.00', '40.00', '—']
    """

    values: tuple[float, ...]
    empty: str = MISSING

    @property
    def mean(self) -> float | None:
        """Mean over the seeds, None without any."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation over the seeds, None for fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def __str__(self) -> str:
        numbers = (f"{number:.2f}" for number in (self.mean, self.std) if number is not None)
        return " ± ".join(numbers) or self.empty


def markdown_line(text: str) -> str:
    """Text as one line of Markdown, in which no name begins a tag."""
    return one_line(text).replace("<", "&lt;")


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """Header and rows, all of one length, as a table; the first column is aligned left, all others right.

    >>> print(markdown_table([["method", "tail"], ["ce", "2.07"], ["d-ffds", "23.67"]]))
    | method | tail |
    | --- | ---: |
    | ce | 2.07 |
    | d-ffds | 23.67 |
    """
    header, *rows = ([markdown_line(cell).replace("|", r"\|") for cell in line] for line in lines)
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *rows))


def provenance(runs: Iterable[tuple[str, str, str | None, str]]) -> list[str]:
    """Where runs were measured: one sentence for each place, with all its commands.

    `runs` are hardware, versions, commit (None for an installed package) and command of each run.

    >>> place = "2 cores", "torch 2.13", "abc"
    >>> provenance([(*place, "ffds train"), (*place, "ffds eval")])
    ['Measured on 2 cores; torch 2.13; commit abc; `ffds train`, `ffds eval`.']
    """
    places: dict[str, dict[str, None]] = {}
    for hardware, versions, commit, command in runs:
        place = f"{hardware}; {versions}; commit {commit or 'unknown'}"
        code = command.replace("`", "'")
        places.setdefault(place, {})[f"`{code}`"] = None
    return [one_line(f"Measured on {place}; {', '.join(commands)}.") for place, commands in places.items()]
