"""Each panel shows the numbers it was given."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from ffds.paper import figure_data, panels
from ffds.paper.figure_data import EpochAccuracy, Gain, Norm
from ffds.plotting import SKY, TEAL, YELLOW, style


@pytest.fixture
def ax():
    with style():
        yield Figure(figsize=(3.4, 2.3)).subplots()


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_overfitting(ax):
    pairs = [(method, epoch) for method in ("cb-fl", "ffds") for epoch in (1, 2, 3)]
    rows = [EpochAccuracy(method, "tail", epoch, 20.0 * epoch, 5.0 * epoch) for method, epoch in pairs]
    panels.overfitting(rows, ax)
    assert [line.get_ydata().tolist() for line in ax.lines] == [[20, 40, 60], [5, 10, 15]] * 2
    assert [tuple(filled.get_datalim(ax.transData).intervaly) for filled in ax.collections] == [(5, 60)] * 2
    assert legend(ax) == [f"CB-FL {figure_data.area(rows[:3]):.2f}", f"FFDS {figure_data.area(rows[3:]):.2f}"]
    assert ax.get_legend().get_title().get_text() == "tail, area"
    assert (ax.get_xlim(), ax.get_ylim()) == ((0, 3), (0, 100))


def test_losses(ax):
    panels.losses(figure_data.loss_curves(), ax)
    ours = [f"D-FFDS, γ = 1, p̄ = {mean}" for mean in (0.3, 0.5, 0.7, 0.9)]
    assert legend(ax) == ["FL, γ = 0", "FL, γ = 0.5", "FL, γ = 1", *ours]
    assert len({(line.get_linestyle(), line.get_color()) for line in ax.lines}) == 7


def test_focusing(ax):
    rows = figure_data.focusing_curves(5, 500, 1.0, 4.5)
    panels.focusing(rows, ax, {name: f"{name}!" for name in ("linear", "concave", "convex")})
    assert legend(ax) == ["concave!", "convex!", "linear!"]
    concave, convex, linear = (line.get_ydata()[100] for line in ax.lines)
    assert concave > linear > convex


def test_smoothing(ax):
    random = np.random.default_rng(0)
    group = random.integers(0, 3, 600)
    rows = figure_data.smoothed_probabilities(random.random(600), group, np.array([0.8, 0.5, 0.2]), k=0.9)
    panels.smoothing(rows, ax)
    lines = [line for line in ax.lines if line.get_linewidth() == 1.0 and len(line.get_xdata()) == 2]
    medians = sorted((line.get_xdata().mean(), line.get_ydata()[0]) for line in lines)
    expected = []
    for m in range(3):
        before, after = zip(*((row.before, row.after) for row in rows if row.group == m), strict=True)
        expected += [(m - 0.2, np.median(before)), (m + 0.2, np.median(after))]
    np.testing.assert_allclose(medians, expected)
    diamonds = [line for line in ax.lines if line.get_marker() == "D"]
    assert [line.get_ydata().tolist() for line in diamonds] == [[0.8, 0.5, 0.2]]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "2", "3"]
    assert legend(ax) == ["p, before", "p̂, after", "p̄"]


def test_class_count_bars(ax):
    rows = figure_data.class_counts()
    panels.class_count_bars(rows, ax)
    natural, cut = ([bar.get_height() for bar in bars] for bars in ax.containers)
    assert (natural, cut) == ([row.if_18 for row in rows], [row.if_100 for row in rows])
    assert [int(text.get_text()) for text in ax.texts] == natural + cut
    assert [tick.get_text() for tick in ax.get_xticklabels()] == [row.character for row in rows]
    assert legend(ax) == ["IF 18", "IF 100"]


@pytest.mark.parametrize("channels", [1, 3])
def test_image_pair(ax, channels):
    panels.image_pair(*(np.full((4, 5, channels), value, dtype=np.uint8) for value in (200, 30)), "A", ax)
    shown = ax.images[0].get_array()
    assert (shown.shape, ax.get_title()) == ((4, 12, 3), "A")
    assert (set(shown[:, :5].ravel()), set(shown[:, 7:].ravel())) == ({200}, {30})


def test_accuracy_gains(ax):
    rows = [
        Gain(0, 4, "head", 60.0, 50.0, -10.0),
        Gain(1, 3, "middle", 30.0, 34.0, 4.0),
        Gain(2, 1, "tail", 10.0, 8.0, -2.0),
        Gain(3, 0, "tail", 5.0, 25.0, 20.0),
    ]
    panels.accuracy_gains(rows, ax)
    bars = sorted((bar.get_center()[0], bar.get_height(), to_hex(bar.get_facecolor())) for bar in ax.patches)
    assert [(x, height, colour.upper()) for x, height, colour in bars] == [
        (0, -10, YELLOW),
        (1, 4, SKY),
        (2, -2, YELLOW),
        (3, 20, TEAL),
    ]
    assert legend(ax) == ["gain, tail", "gain, head and middle", "loss"]


def test_weight_norms(ax):
    rows = [Norm(method, rank, rank, 2.0 - rank) for method in ("ce", "cb-fl", "d-ffds") for rank in (0, 1)]
    panels.weight_norms(rows, ax)
    assert [line.get_ydata().tolist() for line in ax.lines] == [[2.0, 1.0]] * 3
    assert legend(ax) == ["CE", "CB-FL", "D-FFDS"]
    assert len({line.get_linestyle() for line in ax.lines}) == 3
    assert ax.get_ylim()[0] == 0
