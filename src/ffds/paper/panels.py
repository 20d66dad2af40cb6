"""The panels of the paper's figures: plain functions that draw tidy rows on axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from ffds.paper.figure_data import (
    ClassCount,
    Curve,
    EpochAccuracy,
    Gain,
    LossPoint,
    Norm,
    SmoothedProbability,
    area,
)
from ffds.paper.reference import METHOD_TITLES
from ffds.plotting import ABOVE, INK, ORANGE, PALE, PURPLE, SKY, TEAL, YELLOW

__all__ = [
    "accuracy_gains",
    "class_count_bars",
    "focusing",
    "image_pair",
    "losses",
    "overfitting",
    "smoothing",
    "weight_norms",
]

_LOOK: dict[str, tuple[str, Any]] = {
    "ce": (INK, ":"),
    "cb-fl": (ORANGE, "--"),
    "ffds": (TEAL, "-"),
    "d-ffds": (TEAL, "-"),
}
"""Method → colour and line style."""


def overfitting(rows: Sequence[EpochAccuracy], ax: Axes) -> None:
    """Figure 1, one panel: training accuracy (upper line), test accuracy (lower line), the area between.

    Args:
        rows: of one group, of any number of methods.
        ax: where to draw.
    """
    handles = []
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == method]
        colour, line = _LOOK[method]
        epochs, train, test = zip(*((row.epoch, row.train, row.test) for row in own), strict=True)
        hatch = "" if line == "-" else "//////"
        ax.fill_between(epochs, test, train, color=colour, alpha=0.3, linewidth=0, hatch=hatch)
        for values in (train, test):
            ax.plot(epochs, values, color=colour, linestyle=line)
        label = f"{METHOD_TITLES[method]} {area(own):.2f}"
        handles.append(Line2D([], [], color=colour, linestyle=line, label=label))
    ax.set(xlabel="epoch", ylim=(0, 100))
    ax.set_xlim(0, max(row.epoch for row in rows))
    ax.legend(handles=handles, title=f"{rows[0].group}, area", ncols=2, **ABOVE)


def losses(rows: Sequence[LossPoint], ax: Axes) -> None:
    """Figure 2a: loss against the probability of the label."""
    looks = {
        "FL": ("-", "γ", (INK, "#6E6E6E", "#A8A8A8")),
        "D-FFDS": (":", "γ = 1, p̄", (ORANGE, TEAL, SKY, PURPLE)),
    }
    for name, (line, symbol, colours) in looks.items():
        own = [row for row in rows if row.loss == name]
        for parameter, colour in zip(dict.fromkeys(row.parameter for row in own), colours, strict=True):
            p, values = zip(
                *((row.probability, row.value) for row in own if row.parameter == parameter), strict=True
            )
            ax.plot(p, values, line, color=colour, label=f"{name}, {symbol} = {parameter:g}")
    ax.set(xlabel="p of the label", ylabel="loss", xlim=(0, 1), ylim=(0, 5))
    ax.legend()


def focusing(rows: Sequence[Curve], ax: Axes, labels: Mapping[str, str]) -> None:
    """Figure 2b: γ against the number of training images.

    Args:
        rows: all curves.
        ax: where to draw.
        labels: curve → its text in the legend.
    """
    looks = {"concave": (TEAL, "-"), "convex": (ORANGE, "--"), "linear": (PURPLE, "-.")}
    for name, (colour, line) in looks.items():
        images, gamma = zip(*((row.images, row.gamma) for row in rows if row.curve == name), strict=True)
        ax.plot(images, gamma, color=colour, linestyle=line, label=labels[name])
    ax.set(xlabel="training images of the class, N", ylabel="γ")
    ax.set_xlim(min(row.images for row in rows), max(row.images for row in rows))
    ax.set_ylim(bottom=0)
    ax.legend(**ABOVE)


def smoothing(rows: Sequence[SmoothedProbability], ax: Axes) -> None:
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
    handles = [
        *(
            Patch(facecolor=colour, hatch=hatch, edgecolor=INK, linewidth=0.5, label=label)
            for _, colour, hatch, label in sides.values()
        ),
        Line2D([], [], linestyle="", label="p̄", **diamond),
    ]
    ax.legend(handles=handles, ncols=3, **ABOVE)
    ax.set(xlabel="group of classes, head to tail", ylabel="probability of the label", ylim=(-0.02, 1.02))
    ax.set_xticks(groups, [str(group + 1) for group in groups])


def class_count_bars(rows: Sequence[ClassCount], ax: Axes) -> None:
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
    """Figure 4: the sharpest image of a class beside its dullest.

    Args:
        sharp: (h, w, 1 or 3).
        dull: the same shape.
        title: the class.
        ax: where to draw.
    """
    gap = np.full((sharp.shape[0], 2, sharp.shape[2]), 255, dtype=np.uint8)
    pair = np.concatenate([sharp, gap, dull], axis=1)
    ax.imshow(np.broadcast_to(pair, (*pair.shape[:2], 3)), interpolation="nearest")
    ax.set_title(title, pad=2)
    ax.set_axis_off()


def accuracy_gains(rows: Sequence[Gain], ax: Axes) -> None:
    """Figure 5a: accuracy of D-FFDS less that of CE, class by class from head to tail."""
    looks = {"gain, tail": TEAL, "gain, head and middle": SKY, "loss": YELLOW}
    kinds = [
        "loss" if row.difference < 0 else "gain, tail" if row.group == "tail" else "gain, head and middle"
        for row in rows
    ]
    for kind, colour in looks.items():
        own = [row for row, its in zip(rows, kinds, strict=True) if its == kind]
        ax.bar(
            [row.rank for row in own],
            [row.difference for row in own],
            1.0,
            color=colour,
            edgecolor=INK,
            linewidth=0.2,
            label=kind,
        )
    ax.axhline(0, color=INK, linewidth=0.6)
    ax.set(xlabel="class, most frequent first", ylabel="D-FFDS − CE, points")
    ax.margins(x=0.01)
    ax.legend(loc="upper left")


def weight_norms(rows: Sequence[Norm], ax: Axes) -> None:
    """Figure 5b: length of the classifier's weight vector, class by class from head to tail."""
    for method in dict.fromkeys(row.method for row in rows):
        colour, line = _LOOK[method]
        rank, length = zip(*((row.rank, row.norm) for row in rows if row.method == method), strict=True)
        ax.plot(rank, length, color=colour, linestyle=line, label=METHOD_TITLES[method])
    ax.set(xlabel="class, most frequent first", ylabel="weight norm")
    ax.margins(x=0.01)
    ax.set_ylim(bottom=0)
    ax.legend()
