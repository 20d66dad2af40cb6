"""Each figure from run directories written by hand."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from string import ascii_uppercase, digits

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Text

from ffds.data.dataset import Dataset, Split
from ffds.errors import InputError, NonFiniteLossError
from ffds.inference.load import TrainProbabilities
from ffds.paper.figures import Request, draw_figure
from ffds.run_directory import Run
from tests.finished_runs import recipe, train_by_hand, write_run

ROOT = Path(__file__).parents[2]
SHORT = "schedule.epochs=3"


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A finished run of each method the figures need; look only."""
    place = tmp_path_factory.mktemp("runs")
    for method in ("ce", "cb-fl", "ffds", "d-ffds"):
        write_run(place, recipe(SHORT, method=method))
    write_run(place, recipe(SHORT, "method.curve=linear", "trainer.seed=5"), last=42.5)
    return place


@pytest.fixture
def measured(out):
    return Request("cifar100-lt-100", (SHORT,), out=out, train=False)


def texts(artist):
    return [text.get_text() for text in artist.findobj(match=Text)]


@pytest.mark.parametrize("name", ["1", "5a", "5b"])
def test_a_figure_names_its_runs(name, measured):
    drawing = draw_figure(name, measured)
    assert "CIFAR-100-LT, IF 100; 3 epochs, seed 0" in texts(drawing.figure)
    assert drawing.description == "Measured on 2 cores of X; torch 2.13; commit abc; `ffds table 1a`."
    assert drawing.remark == ""
    if name == "1":
        titles = [ax.get_legend().get_title().get_text() for ax in drawing.figure.axes]
        assert titles == ["head, area", "middle, area", "tail, area"]
        assert [row.method for row in drawing.rows] == ["cb-fl"] * 9 + ["ffds"] * 9


def test_figure_2b_shows_the_measured_accuracies_beside_the_papers(measured):
    drawing = draw_figure("2b", measured)
    assert [text for text in texts(drawing.figure.axes[0].get_legend()) if "measured" in text] == [
        "concave: 43.46 in the paper, 40.00 measured (n = 1)",
        "convex: 42.78 in the paper, — measured",
        "linear: 42.30 in the paper, 42.50 measured (n = 1)",
    ]
    assert drawing.remark == f"no finished run of the curves convex in {measured.out}"
    assert drawing.rows[0] == ("concave", 5, 0.0)
    assert max(row.gamma for row in drawing.rows) == pytest.approx(4.5)


def test_figure_3_smooths_with_the_settings_of_the_run(measured, monkeypatch):
    asked = []
    random = np.random.default_rng(0)
    probabilities = TrainProbabilities(random.random(400), random.integers(0, 10, 400), np.full(10, 0.5))

    def train_probabilities(*given):
        asked.append(given)
        return probabilities

    monkeypatch.setattr("ffds.inference.load.train_probabilities", train_probabilities)
    drawing = draw_figure("3", replace(measured, overrides=(SHORT, "data.root=there")))
    assert asked == [(Run.of(recipe(SHORT), measured.out), ["data.root=there"])]
    first = drawing.rows[0]
    fraction = (0.9 * (first.before**0.5 - 0.5**0.5)) ** 2
    assert first.after == pytest.approx(first.before - fraction * (first.before - 0.5))
    assert len(drawing.rows) == 400


RENDERED = "rendered sample, not ICText"


@pytest.mark.parametrize(("source", "shown"), [("one", "ICText-LT"), (f"0, {RENDERED}, below", RENDERED)])
def test_figure_4_shows_the_sharpest_beside_the_dullest(source, shown, monkeypatch):
    random = np.random.default_rng(0)
    scale = np.tile([1.0, 0.3, 0.05], 36)[:, None, None, None]
    images = (128 + 127 * scale * random.uniform(-1, 1, (108, 32, 32, 3))).astype(np.uint8)
    split = Split(images, np.repeat(np.arange(36), 3))
    dataset = Dataset("ictext", source, tuple(digits + ascii_uppercase), split, split)
    monkeypatch.setattr("ffds.data.open.open_dataset", lambda data: dataset)
    drawing = draw_figure("4", Request("ictext-lt-18", train=False))
    pairs = [ax for ax in drawing.figure.findobj(match=Axes) if ax.images]
    assert [ax.get_title() for ax in pairs] == list("048CGKOSW")
    for ax, label in zip(pairs, range(0, 36, 4), strict=True):
        pixels = ax.images[0].get_array()
        assert np.array_equal(pixels[:, :32], images[3 * label])
        assert np.array_equal(pixels[:, -32:], images[3 * label + 2])
    assert f"sharpest and dullest image of a class ({shown})" in texts(drawing.figure)
    assert drawing.description.endswith(f"images: {shown}.")
    assert drawing.remark == ""


@pytest.mark.parametrize(
    ("name", "recipe", "overrides", "message"),
    [
        ("6", "digits", (), r"no figure 6(.|\n)*1, 2a, 2b, 3, 4, 5a, 5b"),
        ("2a", "digits", ("method.k=0.5",), "no setting changes it"),
        ("2b", "digits", (SHORT,), "published tail"),
        ("4", "digits", (), "figure 4 shows ICText-LT"),
        ("4", "ictext-lt-18", ("data.rot=there",), r"data\.rot"),
        *((name, "digits", ("method=ffds",), "figure decides the method") for name in ("1", "2b", "3", "5a")),
        ("5b", "digits", ("trainer.seed=3",), "figure decides the seed"),
    ],
)
def test_what_cannot_be_drawn(name, recipe, overrides, message, out):
    with pytest.raises(InputError, match=message):
        draw_figure(name, Request(recipe, overrides, out=out, train=False))


def test_figure_1_without_three_groups(tmp_path):
    for method in ("cb-fl", "ffds"):
        run = write_run(tmp_path, recipe(SHORT, method=method))
        run.take_epochs([line | {"test": line["test"] | {"middle": None}} for line in run.metrics])
        run.finish(run.summary | {"middle": None})
    with pytest.raises(InputError, match=r"no accuracy of middle"):
        draw_figure("1", Request("cifar100-lt-100", (SHORT,), out=tmp_path, train=False))


@pytest.mark.parametrize(("name", "method"), [("1", "cb-fl"), ("3", "d-ffds"), ("5a", "ce"), ("5b", "ce")])
def test_a_missing_run_is_named(name, method, measured):
    with pytest.raises(InputError, match=f"not there(.|\n)*{method}, seed 4, 3 epochs"):
        draw_figure(name, replace(measured, seed=4))


def test_missing_runs_are_trained_first(monkeypatch, tmp_path):
    trained = train_by_hand(monkeypatch, ce=NonFiniteLossError("nan in epoch 1"))
    request = Request("cifar100-lt-100", (SHORT,), seed=2, out=tmp_path)
    assert draw_figure("2b", request).remark == ""
    draw_figure("1", request)
    assert trained == [*[("d-ffds", 2)] * 3, ("cb-fl", 2), ("ffds", 2)]
    with pytest.raises(NonFiniteLossError, match="nan in epoch 1"):
        draw_figure("5a", request)


@pytest.mark.parametrize("name", ["1", "4", "5a", "5b"])
def test_a_figure_without_formulas_needs_no_torch(name, out):
    recipe = "ictext-lt-18" if name == "4" else "cifar100-lt-100"
    request = f"Request({recipe!r}, ({SHORT!r}, 'data.root=no'), out={str(out)!r}, train=False)"
    code = (
        "import sys\nsys.modules['torch'] = None\nfrom ffds.paper.figures import Request, draw_figure\n"
        f"print(len(draw_figure({name!r}, {request}).rows))"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    assert int(subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True).stdout) >= 18
