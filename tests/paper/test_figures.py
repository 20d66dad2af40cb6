"""Each figure from run directories made by hand."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Text

from ffds.data.dataset import Dataset, Split
from ffds.errors import InputError, NonFiniteLossError
from ffds.inference.load import TrainProbabilities
from ffds.paper.figures import FIGURES, Request, draw_figure
from ffds.run_directory import Run
from tests.finished_runs import recipe, write_run

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
def request_(out):
    return Request("cifar100-lt-100", (SHORT,), out=out, train=False)


def texts(figure):
    return [text.get_text() for text in figure.findobj(match=Text)]


@pytest.mark.parametrize("name", ["1", "5a", "5b"])
def test_what_comes_from_runs_says_which(name, request_):
    drawing = draw_figure(name, request_)
    assert "CIFAR-100-LT, IF 100; 3 epochs, seed 0" in texts(drawing.figure)
    assert drawing.description == "Measured on 2 cores of X; torch 2.13; commit abc; `ffds table 1a`."
    assert drawing.remark == ""


def test_figure_1_has_a_panel_a_group(request_):
    drawing = draw_figure("1", request_)
    titles = [ax.get_legend().get_title().get_text() for ax in drawing.figure.axes]
    assert titles == ["head, area", "middle, area", "tail, area"]
    assert [row.method for row in drawing.rows] == ["cb-fl"] * 9 + ["ffds"] * 9


def test_figure_2a_needs_no_run(tmp_path):
    assert len(draw_figure("2a", Request("digits", out=tmp_path, train=False)).rows) == 7 * 300


def test_figure_2b_sets_what_is_measured_beside_the_paper(request_):
    drawing = draw_figure("2b", request_)
    assert [text.get_text() for text in drawing.figure.axes[0].get_legend().get_texts()] == [
        "concave: 43.46 in the paper, 40.00 measured (n = 1)",
        "convex: 42.78 in the paper, — measured",
        "linear: 42.30 in the paper, 42.50 measured (n = 1)",
    ]
    assert "convex" in drawing.remark
    assert "concave" not in drawing.remark
    assert drawing.rows[0] == ("concave", 5, 0.0)
    assert max(row.gamma for row in drawing.rows) == pytest.approx(4.5)


def test_figure_2b_needs_a_published_tail(request_):
    with pytest.raises(InputError, match="published tail"):
        draw_figure("2b", replace(request_, recipe="digits"))


def test_figure_3_smooths_with_the_settings_of_the_run(request_, monkeypatch):
    asked = []
    random = np.random.default_rng(0)
    group = random.integers(0, 10, 400)
    found = TrainProbabilities(random.random(400), group, np.full(10, 0.5))

    def train_probabilities(run, overrides):
        asked.append((run, overrides))
        return found

    monkeypatch.setattr("ffds.inference.load.train_probabilities", train_probabilities)
    drawing = draw_figure("3", replace(request_, overrides=(SHORT, "data.root=there")))
    assert asked == [(Run.of(recipe(SHORT), request_.out), ["data.root=there"])]
    first = drawing.rows[0]
    fraction = (0.9 * (first.before**0.5 - 0.5**0.5)) ** 2
    assert first.after == pytest.approx(first.before - fraction * (first.before - 0.5))
    assert len(drawing.rows) == 400


def ictext(monkeypatch, source):
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(36), 3)
    scale = np.tile([1.0, 0.3, 0.05], 36)[:, None, None, None]
    images = (128 + 127 * scale * random.uniform(-1, 1, (108, 32, 32, 3))).astype(np.uint8)
    split = Split(images, labels)
    names = tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    dataset = Dataset("ictext", source, names, split, split)
    monkeypatch.setattr("ffds.data.open.open_dataset", lambda data: dataset)
    return images


def test_figure_4_shows_the_sharpest_beside_the_dullest(monkeypatch):
    images = ictext(monkeypatch, "ICText-LT of somebody")
    drawing = draw_figure("4", Request("ictext-lt-18", train=False))
    pairs = [ax for ax in drawing.figure.findobj(match=Axes) if ax.images]
    assert [ax.get_title() for ax in pairs] == list("048CGKOSW")
    for ax, label in zip(pairs, range(0, 36, 4), strict=True):
        shown = ax.images[0].get_array()
        assert np.array_equal(shown[:, :32], images[3 * label])
        assert np.array_equal(shown[:, -32:], images[3 * label + 2])
    assert "sharpest and dullest image of a class (ICText-LT)" in texts(drawing.figure)
    assert drawing.remark == ""


def test_figure_4_tells_a_rendered_sample(monkeypatch):
    ictext(monkeypatch, "seed 0, rendered sample, not ICText, below there")
    drawing = draw_figure("4", Request("ictext-lt-18", train=False))
    assert "sharpest and dullest image of a class (rendered sample, not ICText)" in texts(drawing.figure)
    assert drawing.description.endswith("images: rendered sample, not ICText.")


def test_figure_4_without_data_has_the_bars_alone_and_says_so(tmp_path):
    drawing = draw_figure("4", Request("ictext-lt-18", (f"data.root={tmp_path / 'none'}",), train=False))
    assert len(drawing.figure.axes) == 1
    assert len(drawing.rows) == 36
    assert drawing.remark.startswith("bars alone, without images: ")


def test_figure_4_of_another_dataset(tmp_path):
    with pytest.raises(InputError, match="figure 4 shows ICText-LT"):
        draw_figure("4", Request("digits", out=tmp_path, train=False))


def test_figure_4_with_a_slip_in_a_setting(tmp_path):
    with pytest.raises(InputError, match=r"data\.rot"):
        draw_figure("4", Request("ictext-lt-18", ("data.rot=there",), out=tmp_path, train=False))


def test_figure_2a_with_a_setting(tmp_path):
    with pytest.raises(InputError, match="no setting changes it"):
        draw_figure("2a", Request("digits", ("method.k=0.5",), out=tmp_path, train=False))


def test_figure_1_without_three_groups(tmp_path):
    for method in ("cb-fl", "ffds"):
        run = write_run(tmp_path, recipe(SHORT, method=method))
        lines = [line | {"test": line["test"] | {"middle": None}} for line in run.metrics]
        run.take_epochs(lines)
    with pytest.raises(InputError, match=r"no accuracy of middle"):
        draw_figure("1", Request("cifar100-lt-100", (SHORT,), out=tmp_path, train=False))


def test_an_unknown_figure():
    with pytest.raises(InputError, match="no figure 6") as caught:
        draw_figure("6", Request("digits"))
    assert "1, 2a, 2b, 3, 4, 5a, 5b" in str(caught.value)


@pytest.mark.parametrize(("name", "method"), [("1", "cb-fl"), ("3", "d-ffds"), ("5a", "ce"), ("5b", "ce")])
def test_a_missing_run_is_named(name, method, tmp_path):
    with pytest.raises(InputError, match="not there") as caught:
        draw_figure(name, Request("cifar100-lt-100", (SHORT,), seed=4, out=tmp_path, train=False))
    assert f"{method}, seed 4, 3 epochs" in str(caught.value)


def test_missing_runs_are_trained_first(monkeypatch, tmp_path):
    asked = []

    def train_all(recipes, *, out, jobs):
        asked.extend(recipes)
        for one in recipes:
            write_run(out, one)
        return {}

    monkeypatch.setitem(sys.modules, "ffds.jobs.several", SimpleNamespace(train_all=train_all))
    draw_figure("5a", Request("cifar100-lt-100", (SHORT,), seed=2, out=tmp_path))
    assert [(one.method.name, one.trainer.seed, one.schedule.epochs) for one in asked] == [
        *(("ce", 2, 3), ("d-ffds", 2, 3))
    ]


def test_figure_2b_trains_the_curves_that_are_missing(monkeypatch, tmp_path):
    asked = []

    def train_all(recipes, *, out, jobs):
        asked.extend(recipes)
        for one in recipes:
            write_run(out, one)
        return {}

    monkeypatch.setitem(sys.modules, "ffds.jobs.several", SimpleNamespace(train_all=train_all))
    write_run(tmp_path, recipe(SHORT, "trainer.seed=2"))
    drawing = draw_figure("2b", Request("cifar100-lt-100", (SHORT,), seed=2, out=tmp_path))
    assert [(one.method.curve, one.trainer.seed, one.schedule.epochs) for one in asked] == [
        *(("convex", 2, 3), ("linear", 2, 3))
    ]
    assert drawing.remark == ""


@pytest.mark.parametrize("name", ["1", "2b", "3", "5a", "5b"])
@pytest.mark.parametrize("setting", ["method=ffds", "trainer.seed=3"])
def test_method_and_seed_are_no_settings_of_a_figure(name, setting, request_):
    with pytest.raises(InputError, match="a figure decides the"):
        draw_figure(name, replace(request_, overrides=(SHORT, setting)))


def test_a_failed_training_is_told(monkeypatch, tmp_path):
    def train_all(recipes, *, out, jobs):
        return {Run.of(recipes[0], out).path: NonFiniteLossError("nan in epoch 1")}

    monkeypatch.setitem(sys.modules, "ffds.jobs.several", SimpleNamespace(train_all=train_all))
    with pytest.raises(NonFiniteLossError, match="nan in epoch 1"):
        draw_figure("5a", Request("cifar100-lt-100", (SHORT,), out=tmp_path))


@pytest.mark.parametrize("name", [name for name in FIGURES if name != "3"])
def test_drawing_needs_no_torch(name, out):
    recipe = "ictext-lt-18" if name == "4" else "cifar100-lt-100"
    settings = () if name == "2a" else (SHORT, "data.root=nowhere")
    code = (
        "import sys\nsys.modules['torch'] = None\n"
        "from ffds.paper.figures import Request, draw_figure\n"
        f"request = Request({recipe!r}, {settings!r}, out={str(out)!r}, train=False)\n"
        f"print(len(draw_figure({name!r}, request).rows))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 18
