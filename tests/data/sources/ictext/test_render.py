"""The look of rendered chips, and the sample made of them."""

import io
import json
import string
from collections import Counter
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
from PIL import Image, ImageOps

from ffds.data import open_dataset
from ffds.data.sources.ictext import render
from ffds.data.sources.ictext.layout import CHARACTERS, Sizes, cut_out
from ffds.data.sources.ictext.render import FLAWS, FONTS, draw_character, draw_chip, rendered_sample
from ffds.data.sources.registry import SOURCES
from ffds.errors import InputError
from ffds.recipes.schema import Data
from tests.data.sources.ictext.layouts import SMALL, TAIL

CHIPS = 120
TINY = Sizes(natural=(3, *[1] * 35), head=100, test=1)


@cache
def drawn():
    text = np.random.RandomState(0).choice(list(CHARACTERS), (CHIPS, 10)).tolist()
    return [(row, draw_chip(row, seed=k)) for k, row in enumerate(text)]


def crops():
    for row, chip in drawn():
        for name, mark in zip(row, chip.marks, strict=True):
            assert mark.name == name
            yield mark, np.asarray(Image.open(io.BytesIO(cut_out(chip.pixels, mark.corners)))).mean(axis=2)


def test_characters_lie_inside_and_apart():
    for _, chip in drawn():
        height, width = chip.pixels.shape[:2]
        corners = np.array([mark.corners for mark in chip.marks]).reshape(-1, 4, 2)
        assert (corners >= 0).all()
        assert (corners <= (width, height)).all()
        x, y = corners[..., 0], corners[..., 1]
        # Clockwise from the upper left corner: the area of the polygon is positive with y downwards.
        assert (x * np.roll(y, -1, 1) - y * np.roll(x, -1, 1)).sum(1).min() > 0
        assert (corners[:, 0].sum(1) < corners[:, 2].sum(1)).all()
        assert len(np.unique(corners.mean(1), axis=0)) == len(chip.marks)


def test_flaws_are_independent_and_as_frequent_as_said():
    flags = np.array([mark.flaws for mark, _ in crops()], dtype=float)
    np.testing.assert_allclose(flags.mean(axis=0), 0.35, atol=0.05)
    assert np.abs(np.corrcoef(flags.T) - np.eye(3)).max() < 0.1


@pytest.mark.parametrize(
    ("flaw", "measure", "ratio"),
    [
        ("low contrast", lambda crop: np.percentile(crop, 95) - np.percentile(crop, 5), 0.6),
        ("blurry", lambda crop: np.percentile(np.abs(np.diff(crop, axis=1)), 97) / np.ptp(crop), 0.6),
        ("broken", lambda crop: (crop > (crop.min() + crop.max()) / 2).mean(), 0.8),
    ],
)
def test_each_flaw_does_what_its_name_says(flaw, measure, ratio):
    """It lowers contrast, steepness or ink below those of flawless characters."""
    only = tuple(name == flaw for name in FLAWS)
    flawless, flawed = (
        [measure(crop) for mark, crop in crops() if mark.flaws == flaws] for flaws in ((False,) * 3, only)
    )
    assert min(len(flawless), len(flawed)) > 50
    assert np.median(flawed) < ratio * np.median(flawless)


def test_the_look_is_near_the_published_mean_and_deviation():
    """Padded to 32 x 32 with black, within 0.05 of .266 and .232, the means over the recipe's channels."""
    squares = []
    for _, crop in crops():
        square = ImageOps.pad(Image.fromarray(crop.astype(np.uint8)), (32, 32), Image.Resampling.BILINEAR)
        squares.append(np.asarray(square) / 255)
    assert np.mean(squares) == pytest.approx(0.266, abs=0.05)
    assert np.std(squares) == pytest.approx(0.232, abs=0.05)


@pytest.mark.parametrize("font", FONTS, ids=lambda font: font or "Pillow")
def test_every_font_knows_every_character(font):
    """A font draws what it lacks as one and the same box."""
    shapes = {name: draw_character(font, name) for name in CHARACTERS + string.ascii_lowercase}
    assert all(shape.getextrema()[1] == 255 for shape in shapes.values())
    assert len({shapes[name].tobytes() for name in CHARACTERS}) == 36
    assert len({shape.tobytes() for shape in shapes.values()}) > 55


def test_both_imbalance_factors_come_from_one_rendering(tmp_path, monkeypatch):
    monkeypatch.setattr(render, "rendered_sample", partial(rendered_sample, sizes=SMALL))
    facts = replace(SOURCES["ictext-sample"], largest_class=SMALL.head)
    monkeypatch.setitem(SOURCES, "ictext-sample", facts)
    data = Data(name="ictext-sample", root=str(tmp_path / "data"), image_size=16)
    natural = open_dataset(data)
    assert tuple(natural.class_counts) == SMALL.natural
    assert np.bincount(natural.test.labels).tolist() == [2] * 36
    root = tmp_path / "data" / "ictext-sample-seed0"
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    tail = open_dataset(data.model_copy(update={"imbalance_factor": 100.0}))
    assert tail.class_counts == TAIL
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert [path.name for path in (tmp_path / "data").iterdir()] == [root.name]
    for dataset in (natural, tail):
        assert dataset.source == f"rendered sample, not ICText: {root}"
        assert dataset.train.images.shape[1:] == (16, 16, 3)
    assert "rendered sample, not ICText" in (root / "README.md").read_text()
    assert json.loads((root / "rendered-sample.json").read_text())["what"] == "rendered sample, not ICText"


def test_the_seed_decides_every_byte(tmp_path):
    roots = [rendered_sample(tmp_path / name, seed, TINY) for name, seed in (("a", 0), ("b", 0), ("a", 7))]
    first, again, other = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*.*") if path.is_file()}
        for root in roots
    )
    assert first == again
    pictures = [{files[path] for path in files if path.suffix == ".png"} for files in (first, other)]
    assert len(pictures[0]) == 38 + 36
    assert not pictures[0] & pictures[1]
    for split, counts in (("train", TINY.natural), ("val", [1] * 36)):
        lines = (roots[0] / split / f"{split}.txt").read_text().split()
        assert Counter(lines[1::2]) == dict(zip(CHARACTERS, counts, strict=True))
        assert lines[1::2] != sorted(lines[1::2], key=CHARACTERS.index)


@pytest.mark.parametrize("content", [None, "", "{", '{"what": "else"}', '{"format": 0, "seed": 0}'], ids=str)
def test_another_sample_is_not_taken_for_this_one(tmp_path, content):
    root = rendered_sample(tmp_path, 0, TINY)
    with pytest.raises(InputError, match=r"not the rendered sample(.*\n)+.*68307 training images"):
        rendered_sample(tmp_path, 0)
    marker = root / "rendered-sample.json"
    marker.unlink() if content is None else marker.write_text(content)
    with pytest.raises(InputError, match=r"not the rendered sample(.*\n)+.*seed 0(.*\n)+.*remove the dir"):
        rendered_sample(tmp_path, 0, TINY)


@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError("No space left on device")])
def test_an_unfinished_rendering_leaves_nothing(tmp_path, monkeypatch, fault):
    seeds = []

    def failing(text, seed):
        seeds.append(seed)
        if len(seeds) == 3:
            raise fault
        return draw_chip(text, seed)

    with monkeypatch.context() as patch:
        patch.setattr(render, "draw_chip", failing)
        with pytest.raises((KeyboardInterrupt, InputError), match=r"No space left on device|^$"):
            rendered_sample(tmp_path, 0, TINY)
    assert list(tmp_path.iterdir()) == []
    assert rendered_sample(tmp_path, 0, TINY).is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be rendered\n.*file"):
        rendered_sample(tmp_path / "file", 0, TINY)


def test_of_two_processes_the_faster_one_counts(tmp_path, monkeypatch):
    def overtaken(text, seed):
        if not (tmp_path / "ictext-sample-seed0").exists():
            monkeypatch.setattr(render, "draw_chip", draw_chip)
            rendered_sample(tmp_path, 0, TINY)
        return draw_chip(text, seed)

    monkeypatch.setattr(render, "draw_chip", overtaken)
    root = rendered_sample(tmp_path, 0, TINY)
    assert [path.name for path in tmp_path.iterdir()] == [root.name]
