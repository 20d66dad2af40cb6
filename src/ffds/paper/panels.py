"""The panels of the paper's figures: each function draws the rows it is given on axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from ffds.paper import figure_data
from ffds.paper.reference import METHOD_TITLES
from ffds.plotting import ABOVE, INK, ORANGE, PALE, PURPLE, SKY, TEAL, YELLOW

__all__ = ["accuracy_gains", "class_count_bars", "focusing", "image_pair", "losses", "overfitting"]
__all__ += ["smoothing", "weight_norms"]

_LOOK: dict[str, Any] = dict.fromkeys(("ffds", "d-ffds"), (TEAL, "-"))
_LOOK |= {"ce": (INK, ":"), "cb-fl": (ORANGE, "--")}
"""Method → colour and line style."""


def overfitting(rows: Sequence[figure_data.EpochAccuracy], ax: Axes) -> None:
    """Figure 1, one group: training accuracy (upper line), test accuracy (lower line), the area between."""
    handles = []
    for method, own in _by("method", rows):
        colour, line = _LOOK[method]
        epochs, train, test = ([getattr(row, name) for row in own] for name in ("epoch", "train", "test"))
        hatch = "" if line == "-" else "//////"
        ax.fill_between(epochs, test, train, color=colour, alpha=0.3, linewidth=0, hatch=hatch)
        for values in (train, test):
            ax.plot(epochs, values, color=colour, linestyle=line)
        label = f"{METHOD_TITLES[method]} {figure_data.area(own):.2f}"
        handles.append(Line2D([], [], color=colour, linestyle=line, label=label))
    ax.set(xlabel="epoch", xlim=(0, max(row.epoch for row in rows)), ylim=(0, 100))
    ax.legend(handles=handles, title=f"{rows[0].group}, area", ncols=2, **ABOVE)


def losses(rows: Sequence[figure_data.LossPoint], ax: Axes) -> None:
    """Figure 2a: loss against the probability of the label."""
    looks = {
        "FL": ("-", "γ", (INK, "#6E6E6E", "#A8A8A8")),
        "D-FFDS": (":", "γ = 1, p̄", (ORANGE, TEAL, SKY, PURPLE)),
    }
    for name, own in _by("loss", rows):
        line, symbol, colours = looks[name]
        for (parameter, points), colour in zip(_by("parameter", own), colours, strict=True):
            p, values = zip(*((row.probability, row.value) for row in points), strict=True)
            ax.plot(p, values, line, color=colour, label=f"{name}, {symbol} = {parameter:g}")
    ax.set(xlabel="p of the label", ylabel="loss", xlim=(0, 1), ylim=(0, 5))
    ax.legend()


def focusing(rows: Sequence[figure_data.Curve], ax: Axes, labels: Mapping[str, str]) -> None:
    """Figure 2b: γ against the number of training images; `labels` has the text of each curve."""
    looks = {"concave": (TEAL, "-"), "convex": (ORANGE, "--"), "linear": (PURPLE, "-.")}
    for name, own in _by("curve", rows):
        colour, line = looks[name]
        images, gamma = [row.images for row in own], [row.gamma for row in own]
        ax.plot(images, gamma, color=colour, linestyle=line, label=labels[name])
    ax.set(xlabel="training images of the class, N", ylabel="γ")
    ax.set_xlim(min(row.images for row in rows), max(row.images for row in rows))
    ax.set_ylim(bottom=0)
    ax.legend(**ABOVE)


def smoothing(rows: Sequence[figure_data.SmoothedProbability], ax: Axes) -> None:
    """Figure 3: box plots of p of the label in each group of classes, before and after DynaSmooth."""
    groups = sorted({row.group for row in rows})
    sides = {"before": (-0.2, ORANGE, "", "p, before"), "after": (0.2, TEAL, "/////", "p̂, after")}
    for side, (shift, colour, hatch, _) in sides.items():
        boxes = ax.boxplot(
            [[getattr(row, side) for row in rows if row.group == group] for group in groups],
            positions=[group + shift for group in groups],
            widths=0.34,
            patch_artist=True,
            manage_ticks=False,
            flierprops={"marker": ".", "markersize": 2, "markeredgewidth": 0, "markerfacecolor": colour},
            medianprops={"color": INK, "linewidth": 1.0},
            boxprops={"facecolor": colour, "hatch": hatch, "edgecolor": INK, "linewidth": 0.5},
            whiskerprops={"linewidth": 0.5},
            capprops={"linewidth": 0.5},
        )
        for points in boxes["fliers"]:
            points.set_rasterized(True)
    means = {row.group: row.group_mean for row in rows}
    diamond: dict[str, Any] = {"marker": "D", "color": INK, "markersize": 2.5, "markerfacecolor": "white"}
    ax.plot(groups, [means[group] for group in groups], linestyle="", **diamond)
    handles: list[Artist] = [
        Patch(facecolor=colour, hatch=hatch, edgecolor=INK, linewidth=0.5, label=label)
        for _, colour, hatch, label in sides.values()
    ]
    handles.append(Line2D([], [], linestyle="", label="p̄", **diamond))
    ax.legend(handles=handles, ncols=3, **ABOVE)
    ax.set(xlabel="group of classes, head to tail", ylabel="probability of the label", ylim=(-0.02, 1.02))
    ax.set_xticks(groups, [str(group + 1) for group in groups])


def class_count_bars(rows: Sequence[figure_data.ClassCount], ax: Axes) -> None:
    """Figure 4: training images of each class of ICText-LT, both imbalance factors, numbers on the bars."""
    places = np.arange(len(rows))
    bars = {
        "IF 18": (places, [row.if_18 for row in rows], 0.9, PALE, "", -0.22),
        "IF 100": (places + 0.22, [row.if_100 for row in rows], 0.46, TEAL, "/////", 0.24),
    }
    for label, (x, counts, width, colour, hatch, shift) in bars.items():
        ax.bar(x, counts, width, color=colour, hatch=hatch, edgecolor=INK, linewidth=0.4, label=label)
        for place, count in zip(places, counts, strict=True):
            ax.text(place + shift, count + 60, str(count), rotation=90, ha="center", va="bottom", fontsize=5)
    ax.set(xlabel="class", ylabel="training images")
    ax.set_xticks(places, [row.character for row in rows])
    ax.margins(x=0.01, y=0.1)
    ax.legend(loc="upper right")


def image_pair(sharp: NDArray[np.uint8], dull: NDArray[np.uint8], title: str, ax: Axes) -> None:
    """Figure 4: the sharpest image (h, w, 1 or 3) of a class beside its dullest."""
    gap = np.full((sharp.shape[0], 2, sharp.shape[2]), 255, dtype=np.uint8)
    pair = np.concatenate([sharp, gap, dull], axis=1)
    ax.imshow(np.broadcast_to(pair, (*pair.shape[:2], 3)), interpolation="nearest")
    ax.set_title(title, pad=2)
    ax.set_axis_off()


def accuracy_gains(rows: Sequence[figure_data.Gain], ax: Axes) -> None:
    """Figure 5a: accuracy of D-FFDS less that of CE, class by class from head to tail."""
    better, worse = ([row for row in rows if (row.difference < 0) == lost] for lost in (False, True))
    kinds = {
        "gain, tail": ([row for row in better if row.group == "tail"], TEAL),
        "gain, head and middle": ([row for row in better if row.group != "tail"], SKY),
        "loss": (worse, YELLOW),
    }
    for kind, (own, colour) in kinds.items():
        ranks, heights = [row.rank for row in own], [row.difference for row in own]
        ax.bar(ranks, heights, 1.0, color=colour, edgecolor=INK, linewidth=0.2, label=kind)
    ax.axhline(0, color=INK, linewidth=0.6)
    ax.set(xlabel="class, most frequent first", ylabel="D-FFDS − CE, points")
    ax.margins(x=0.01)
    ax.legend(loc="upper left")


def weight_norms(rows: Sequence[figure_data.Norm], ax: Axes) -> None:
    """Figure 5b: length of the classifier's weight vector, class by class from head to tail."""
    for method, own in _by("method", rows):
        colour, line = _LOOK[method]
        ranks, lengths = [row.rank for row in own], [row.norm for row in own]
        ax.plot(ranks, lengths, color=colour, linestyle=line, label=METHOD_TITLES[method])
    ax.set(xlabel="class, most frequent first", ylabel="weight norm")
    ax.margins(x=0.01)
    ax.set_ylim(bottom=0)
    ax.legend()


def _by(column: str, rows: Sequence[Any]) -> list[tuple[Any, list[Any]]]:
    """The rows of each value in a column, in order of appearance."""
    values = dict.fromkeys(getattr(row, column) for row in rows)
    return [(value, [row for row in rows if getattr(row, column) == value]) for value in values]
