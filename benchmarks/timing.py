"""Two sides timed in turns, so that a change of the machine's pace meets both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Pairs", "alternate", "timed"]


@dataclass(frozen=True)
class Pairs:
    """Measurements of two sides, made in turns: ours, yardstick, ours, yardstick and so on.

    Attributes:
        ours: what each of ours cost, in any unit.
        yardstick: what the yardstick right after it cost, in the same unit.
    """

    ours: tuple[float, ...]
    yardstick: tuple[float, ...]

    @property
    def medians(self) -> tuple[float, float]:
        """Of ours and of the yardstick.

        >>> Pairs((3.0, 1.0, 2.0), (30.0, 10.0, 20.0)).medians
        (2.0, 20.0)
        """
        return statistics.median(self.ours), statistics.median(self.yardstick)

    def scaled(self, factor: float) -> Pairs:
        """The same in another unit."""
        return Pairs(tuple(factor * x for x in self.ours), tuple(factor * x for x in self.yardstick))


def alternate(ours: Callable[[], float], yardstick: Callable[[], float], pairs: int) -> Pairs:
    """Measure both sides in turns.

    Args:
        ours: measures our side once.
        yardstick: measures the yardstick once.
        pairs: how often, at least 1.
    """
    found = [(ours(), yardstick()) for _ in range(pairs)]
    return Pairs(tuple(one for one, _ in found), tuple(other for _, other in found))


def timed(work: Callable[[], object], times: int = 1) -> Callable[[], float]:
    """A measurement: the seconds one call takes, as the mean of `times` in a row.

    Args:
        work: what is measured; called once right away, so that no measurement is the first.
        times: calls of one measurement; more where one call is short beside the clock.
    """
    work()

    def measure() -> float:
        began = time.perf_counter()
        for _ in range(times):
            work()
        return (time.perf_counter() - began) / times

    return measure
