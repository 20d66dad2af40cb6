"""The plots of a sweep: how much each setting matters, and the score against k and against M."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ffds.plotting import ABOVE, COLUMN, INK, ORANGE, TEAL, save_figure, style
from ffds.sweep.results import SweepResult

__all__ = ["Importance", "Score", "save_plots"]


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


def save_plots(result: SweepResult) -> list[Path]:
    """Draw what a study has enough trials for, and write it beside the study."""
    scores = [
        Score(one.number, one.settings["k"], one.settings["num_groups"], one.score)
        for one in result.having("finished")
        if one.score is not None
    ]
    weights = [Importance(*one) for one in result.importance.items()]
    panels: dict[str, tuple[Any, Sequence[NamedTuple]]] = {
        "importance": (_importance, weights),
        "k": (_against_k, scores),
        "groups": (_against_groups, scores),
    }
    description = f"study {result.study}, {len(scores)} finished trials, validation images only"
    files: list[Path] = []
    for name, (draw, rows) in panels.items():
        if rows:
            with style():
                figure = Figure(figsize=(COLUMN, 2.3))
                draw(rows, figure.subplots())
            files += save_figure(figure, rows, result.directory, f"{result.study}-{name}", description)
    return files


def _importance(rows: Sequence[Importance], ax: Axes) -> None:
    ordered = sorted(rows, key=lambda row: row.importance)
    ax.barh([row.setting for row in ordered], [row.importance for row in ordered], color=TEAL)
    ax.set(xlabel="part of the variance of the score", xlim=(0, 1))


def _against_k(rows: Sequence[Score], ax: Axes) -> None:
    _points([row.k for row in rows], rows, ax)
    ax.set(xlabel="k", xlim=(-0.03, 1.03))


def _against_groups(rows: Sequence[Score], ax: Axes) -> None:
    groups = sorted({row.num_groups for row in rows})
    means = [fmean(row.score for row in rows if row.num_groups == m) for m in groups]
    ax.plot(list(map(str, groups)), means, "_", markersize=14, color=INK, label="mean")
    _points([str(row.num_groups) for row in rows], rows, ax)
    ax.set(xlabel="groups M", xlim=(-0.5, len(groups) - 0.5))


def _points(places: Sequence[Any], rows: Sequence[Score], ax: Axes) -> None:
    """One point a trial, the best one ringed."""
    best = max(range(len(rows)), key=lambda row: rows[row].score)
    ax.scatter(places, [row.score for row in rows], s=14, color=TEAL, alpha=0.7, linewidths=0)
    ax.scatter(places[best], rows[best].score, s=60, facecolors="none", edgecolors=ORANGE, label="best")
    ax.set_ylabel("balanced accuracy\non validation, percent")
    ax.legend(ncols=2, **ABOVE)
