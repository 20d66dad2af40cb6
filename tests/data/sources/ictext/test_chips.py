import io
import string
from functools import cache

import numpy as np
import pytest
from PIL import Image

from ffds.data.sources.ictext.layout import CHARACTERS, cut_out
from ffds.data.sources.ictext.render import FLAWS, FONTS, draw_character, draw_chip

CHIPS = 120


@cache
def drawn():
    text = np.random.RandomState(0).choice(list(CHARACTERS), (CHIPS, 10)).tolist()
    return [(row, draw_chip(row, seed=k)) for k, row in enumerate(text)]


def crops():
    for row, chip in drawn():
        for name, mark in zip(row, chip.marks, strict=True):
            assert mark.name == name
            yield mark, np.asarray(Image.open(io.BytesIO(cut_out(chip.pixels, mark.corners)))).mean(axis=2)


def test_the_seed_decides_every_pixel():
    first, again, other = (draw_chip("A1B2", seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.pixels, again.pixels)
    assert first.marks == again.marks
    assert first.pixels.shape != other.pixels.shape or (first.pixels != other.pixels).any()


def test_characters_lie_inside_and_apart():
    for _, chip in drawn():
        height, width = chip.pixels.shape[:2]
        centres = []
        for mark in chip.marks:
            x, y = np.array(mark.corners[::2]), np.array(mark.corners[1::2])
            assert x.min() >= 0
            assert x.max() <= width
            assert y.min() >= 0
            assert y.max() <= height
            # Clockwise from the upper left corner: the area of the polygon is positive with y downwards.
            assert (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() > 0
            assert x[0] + y[0] < x[2] + y[2]
            centres.append((x.mean(), y.mean()))
        assert len(set(centres)) == len(chip.marks)


def test_flaws_are_independent_and_as_frequent_as_said():
    flags = np.array([mark.flaws for mark, _ in crops()], dtype=float)
    assert flags.shape == (10 * CHIPS, len(FLAWS))
    np.testing.assert_allclose(flags.mean(axis=0), 0.35, atol=0.05)
    assert np.abs(np.corrcoef(flags.T) - np.eye(3)).max() < 0.1


def measured(of):
    """A measure of the flawless crops, and of those with one flaw only, by flaw."""
    found = {flaws: [] for flaws in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]}
    for mark, crop in crops():
        if mark.flaws in found:
            found[mark.flaws].append(of(crop))
    assert min(map(len, found.values())) > 50
    clean, *flawed = (float(np.median(measures)) for measures in found.values())
    return clean, dict(zip(FLAWS, flawed, strict=True))


def test_each_flaw_does_what_its_name_says():
    contrast = measured(lambda crop: np.percentile(crop, 95) - np.percentile(crop, 5))
    assert contrast[1]["low contrast"] < 0.6 * contrast[0]
    steepest = measured(lambda crop: np.percentile(np.abs(np.diff(crop, axis=1)), 97) / np.ptp(crop))
    assert steepest[1]["blurry"] < 0.6 * steepest[0]
    ink = measured(lambda crop: (crop > (crop.min() + crop.max()) / 2).mean())
    assert ink[1]["broken"] < 0.8 * ink[0]


def test_the_look_is_near_the_published_mean_and_deviation():
    """Padded to 32 x 32 with black, within 0.05 of .266 and .232, the means over the recipe's channels."""
    squares = []
    for _, crop in crops():
        long = max(crop.shape)
        square = Image.new("L", (long, long))
        picture = Image.fromarray(crop.astype(np.uint8))
        square.paste(picture, ((long - picture.width) // 2, (long - picture.height) // 2))
        squares.append(np.asarray(square.resize((32, 32), Image.Resampling.BILINEAR)) / 255)
    assert np.mean(squares) == pytest.approx(0.266, abs=0.05)
    assert np.std(squares) == pytest.approx(0.232, abs=0.05)


@pytest.mark.parametrize("font", FONTS, ids=lambda font: font or "Pillow")
def test_every_font_knows_every_character(font):
    """A font draws what it lacks as one and the same box."""
    shapes = {name: draw_character(font, name) for name in CHARACTERS + string.ascii_lowercase}
    assert all(shape.getextrema()[1] == 255 for shape in shapes.values())
    upper = {shapes[name].tobytes() for name in CHARACTERS}
    assert len(upper) == 36
    assert len({shape.tobytes() for shape in shapes.values()}) > 55


def test_one_character_is_a_chip():
    assert [mark.name for mark in draw_chip("j", seed=1).marks] == ["j"]
