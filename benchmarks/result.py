"""One line of the table and of ``results/bench.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

from rich.table import Table

from benchmarks.timing import Pairs
from ffds.reports.formatting import markdown_table

__all__ = ["Result", "number", "page", "table"]

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Result:
    """What ours costs beside the yardstick.

    Attributes:
        name: what was measured.
        against: what the yardstick is; empty where there is none.
        unit: of `ours` and `yardstick`.
        ours: median.
        yardstick: median, None where there is none.
        better: ``"higher"``: the ratio is yardstick / ours, times as fast; ``"lower"``: ours / yardstick.
        ratio: of the medians.
        target: bound on the ratio, from below or above as `better` says; None: told, not judged.
        pairs: measurements of each side.
        min: lowest ratio of a single pair.
        max: highest ratio of a single pair.
    """

    name: str
    against: str
    unit: str
    ours: float
    yardstick: float | None = None
    better: Better = "lower"
    ratio: float | None = None
    target: float | None = None
    pairs: int = 1
    min: float | None = None
    max: float | None = None

    @classmethod
    def of(
        cls, name: str, pairs: Pairs, *, against: str, unit: str, better: Better, target: float | None = None
    ) -> Self:
        """From measurements, already in `unit`."""
        ours, yardstick = pairs.medians
        ratios = [_ratio(*pair, better) for pair in zip(pairs.ours, pairs.yardstick, strict=True)]
        return cls(
            name,
            against,
            unit,
            ours,
            yardstick,
            better,
            _ratio(ours, yardstick, better),
            target,
            len(ratios),
            min(ratios),
            max(ratios),
        )

    @property
    def met(self) -> bool | None:
        """Whether the ratio reaches the target; None without one."""
        if self.ratio is None or self.target is None:
            return None
        return self.ratio >= self.target if self.better == "higher" else self.ratio <= self.target

    def entry(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"met": self.met}


def page(entries: Sequence[Mapping[str, Any]]) -> str:
    """A results file for a person, in Markdown: a table a machine, each line with its commit.

    Args:
        entries: what `Result.entry` gives, and the provenance.
    """
    found = "\n".join(
        f"## {hardware}\n\n{_table_of(entries, hardware)}"
        for hardware in sorted({entry["hardware"] for entry in entries})
    )
    return (
        "# Benchmarks, last figures\n\n"
        "Medians; the ratio of the medians, and the lowest and highest of single pairs. What each line\n"
        f"measures: `benchmarks/README.md`.\n\n{found}"
    )


def _table_of(entries: Sequence[Mapping[str, Any]], hardware: str) -> str:
    """What one machine measured, and with which versions."""
    rows, versions = [["benchmark", "ours", "yardstick", "ratio", "of pairs", "target", "commit"]], set()
    for entry in entries:
        if entry["hardware"] == hardware:
            result = Result(**{field.name: entry[field.name] for field in fields(Result)})
            rows.append([*_cells(result), entry["commit"]])
            versions.add(", ".join(" ".join(item) for item in entry["versions"].items()))
    listed = "\n".join(f"<sub>{line}</sub>\n" for line in sorted(versions))
    return f"{markdown_table(rows)}\n\n{listed}"


def table(results: list[Result]) -> Table:
    """The results for a person."""
    found = Table(title="medians; ratio of the medians, and of single pairs", title_justify="left")
    found.add_column("benchmark", min_width=40)
    for name in ("ours", "yardstick", "ratio", "of pairs", "target"):
        found.add_column(name, justify="right", no_wrap=True)
    for result in results:
        found.add_row(*_cells(result))
    return found


def _cells(result: Result) -> list[str]:
    return [
        f"{result.name}, against {result.against}" if result.against else result.name,
        f"{number(result.ours)} {result.unit}",
        f"{number(result.yardstick)} {result.unit}" if result.yardstick is not None else "",
        number(result.ratio),
        f"{number(result.min)} to {number(result.max)}" if result.pairs > 1 else "",
        _judgement(result),
    ]


def _judgement(result: Result) -> str:
    if result.target is None:
        return ""
    sign = "≥" if result.better == "higher" else "≤"
    return f"{sign} {number(result.target)}: {'met' if result.met else 'missed'}"


def number(value: float | None) -> str:
    """Three digits, more before the point where they stand there."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _ratio(ours: float, yardstick: float, better: Better) -> float:
    return yardstick / ours if better == "higher" else ours / yardstick
