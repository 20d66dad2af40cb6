"""The plots of a sweep: how much each setting matters, and the score against k and against M."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ffds.plotting import ABOVE, COLUMN, INK, ORANGE, TEAL
from ffds.sweep.results import SweepResult

__all__ = ["Importance", "Plot", "Score", "against_groups", "against_k", "importances", "plots"]


class Importance(NamedTuple):
    """Part of the variance of the score that a setting explains."""

    setting: str
    importance: float


class Score(NamedTuple):
    """The score of a finished trial, in percent, at its k and M."""

    trial: int
    k: float
    num_groups: int
    score: float


class Plot(NamedTuple):
    """A figure, the numbers it shows, its file's name and where the numbers come from."""

    figure: Figure
    rows: Sequence[NamedTuple]
    name: str
    description: str


def plots(result: SweepResult) -> Iterator[Plot]:
    """The plots that a study has enough trials for, to be drawn in the style of the caller."""
    scores = [
        Score(one.number, one.settings["k"], one.settings["num_groups"], one.score)
        for one in result.having("finished")
        if one.score is not None
    ]
    weights = [Importance(setting, weight) for setting, weight in result.importance.items()]
    panels: dict[str, tuple[Any, Sequence[NamedTuple]]] = {
        "importance": (importances, weights),
        "k": (against_k, scores),
        "groups": (against_groups, scores),
    }
    for name, (draw, rows) in panels.items():
        if rows:
            figure = Figure(figsize=(COLUMN, 2.3))
            draw(rows, figure.subplots())
            description = f"study {result.study}, {len(scores)} finished trials, validation images only"
            yield Plot(figure, rows, f"{result.study}-{name}", description)


def importances(rows: Sequence[Importance], ax: Axes) -> None:
    """Bars, the setting that matters most on top."""
    ordered = sorted(rows, key=lambda row: row.importance)
    ax.barh([_TITLES[row.setting] for row in ordered], [row.importance for row in ordered], color=TEAL)
    ax.set(xlabel="part of the variance of the score", xlim=(0, 1))


def against_k(rows: Sequence[Score], ax: Axes) -> None:
    """One point a trial, the best one ringed."""
    _points(rows, [row.k for row in rows], ax)
    ax.set(xlabel="k", xlim=(-0.03, 1.03))
    ax.legend(ncols=2, **ABOVE)


def against_groups(rows: Sequence[Score], ax: Axes) -> None:
    """One point a trial, the best one ringed, and the mean of each M."""
    groups = sorted({row.num_groups for row in rows})
    _points(rows, [groups.index(row.num_groups) for row in rows], ax)
    means = [fmean(row.score for row in rows if row.num_groups == m) for m in groups]
    places = range(len(groups))
    ax.hlines(means, [p - 0.25 for p in places], [p + 0.25 for p in places], color=INK, label="mean")
    ax.set_xticks(places, [str(m) for m in groups])
    ax.set(xlabel="groups M", xlim=(-0.5, len(groups) - 0.5))
    ax.legend(ncols=2, **ABOVE)


_TITLES = {
    "beta": "β",
    "k": "k",
    "num_groups": "M",
    "gamma_max": "γ max",
    "gamma_share": "γ min / γ max",
    "curve": "curve",
}


def _points(rows: Sequence[Score], places: Sequence[float], ax: Axes) -> None:
    scores = [row.score for row in rows]
    best = scores.index(max(scores))
    ax.scatter(places, scores, s=14, color=TEAL, alpha=0.7, linewidths=0)
    ring: dict[str, Any] = {"facecolors": "none", "edgecolors": ORANGE, "linewidths": 1.2}
    ax.scatter([places[best]], [scores[best]], s=60, label="best", **ring)
    ax.set_ylabel("balanced accuracy\non validation, percent")
