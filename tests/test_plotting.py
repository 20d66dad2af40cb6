"""Figures as files: the same bytes from every process, whatever the user's own settings are."""

import csv
import os
import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from ffds.paper import panels
from ffds.paper.figure_data import Norm
from ffds.paper.figures import Request, draw_figure
from ffds.plotting import save_figure, style
from tests.finished_runs import recipe, write_run

SHORT = "schedule.epochs=3"
DRAW = """
import sys
from pathlib import Path
import numpy as np
from ffds.paper import figure_data, panels
from ffds.paper.figures import Drawing, Request, draw_figure
from ffds.plotting import save_figure
from ffds.plotting import style
from matplotlib.figure import Figure

runs, target = sys.argv[1:]
for name in ("1", "2a", "2b", "4", "5a", "5b"):
    recipe = "ictext-lt-18" if name == "4" else "cifar100-lt-100"
    overrides = () if name == "2a" else ("schedule.epochs=3", "data.root=nowhere")
    one = draw_figure(name, Request(recipe, overrides, out=runs, train=False))
    save_figure(one.figure, one.rows, target, f"figure-{name}", one.description)
random = np.random.default_rng(0)
group, means = random.integers(0, 10, 3000), np.full(10, 0.8)
rows = figure_data.smoothed_probabilities(random.beta(5, 1, 3000), group, means, 0.9)
with style():
    figure = Figure(figsize=(3.4, 2.3))
    panels.smoothing(rows, figure.subplots())
    panels.image_pair(*np.zeros((2, 8, 8, 3), dtype=np.uint8), "A", figure.add_axes((0.7, 0.7, 0.2, 0.2)))
save_figure(figure, rows, target, "figure-3", "made by hand")
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    for method in ("ce", "cb-fl", "ffds", "d-ffds"):
        write_run(place, recipe(SHORT, method=method))
    return place


@pytest.fixture(scope="module")
def files(runs, tmp_path_factory):
    """All figures, drawn by two processes that differ in everything that must not matter."""
    drawn = []
    others = "font.size: 20\nsvg.hashsalt: other\npdf.fonttype: 3\n"
    for seed, zone, settings in [("1", "UTC", ""), ("2", "Asia/Tokyo", others)]:
        home = tmp_path_factory.mktemp("home")
        (home / "matplotlibrc").write_text(settings)
        environment = os.environ | {"PYTHONHASHSEED": seed, "TZ": zone}
        environment["PYTHONPATH"] = os.pathsep.join(sys.path)
        command = [sys.executable, "-c", DRAW, str(runs), "drawn"]
        process = subprocess.run(command, env=environment, cwd=home, stderr=subprocess.PIPE, check=False)
        assert process.returncode == 0, process.stderr.decode()
        drawn.append({path.name: path.read_bytes() for path in sorted((home / "drawn").iterdir())})
    return drawn


def test_two_processes_write_the_same_bytes_without_a_date_in_dejavu_sans(files):
    first, second = files
    assert len(first) == 7 * 4
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    for name, content in first.items():
        if not name.endswith(".csv"):
            assert b"CreationDate" not in content, name
            assert re.search(rb"20[2-9]\d-[01]\d-[0-3]\d", content) is None, name
        if name.endswith(".pdf"):
            assert set(re.findall(rb"/BaseFont /[A-Z]+\+([A-Za-z]+)", content)) == {b"DejaVuSans"}, name


def test_the_files_are_what_they_are_called(runs, tmp_path):
    drawing = draw_figure("5b", Request("cifar100-lt-100", (SHORT,), out=runs, train=False))
    paths = save_figure(drawing.figure, drawing.rows, tmp_path / "a" / "b", "five", drawing.description)
    assert [path.name for path in paths] == ["five.svg", "five.pdf", "five.png", "five.csv"]
    svg, pdf, png, table = paths
    assert "<svg" in svg.read_text(encoding="utf-8")
    assert pdf.read_bytes().startswith(b"%PDF-")
    with Image.open(png) as image:
        assert image.width == pytest.approx(3.4 * 300, abs=1)
        assert image.text["Description"] == drawing.description
    assert "commit abc" in svg.read_text(encoding="utf-8")
    with table.open(encoding="utf-8") as opened:
        header, *lines = csv.reader(opened)
    assert header == ["method", "rank", "label", "norm"]
    assert [float(line[3]) for line in lines] == [row.norm for row in drawing.rows]


def test_class_names_are_text_and_no_formulas(tmp_path):
    image = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    for name in ("$x^2$", r"$\frac{$", "</text><script>", "a & b", "$"):
        with style():
            figure = Figure(figsize=(2, 2))
            panels.image_pair(*image, name, figure.subplots())
        svg, *_ = save_figure(figure, [Norm("ce", 0, 0, 1.0)], tmp_path, "one", f"made of {name}\x1b\n")
        root = ElementTree.parse(svg).getroot()
        assert not list(root.iter("{http://www.w3.org/2000/svg}script"))
        assert figure.axes[0].title.get_text() == name
