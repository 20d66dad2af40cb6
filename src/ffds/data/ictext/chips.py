"""Rendered chips: characters printed on dark moulded plastic, with the flaws that ICText annotates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ffds.data.ictext.texture import (
    Grey,
    as_grey,
    as_image,
    blur,
    broken,
    even_noise,
    photographed,
    plastic,
    with_noise,
)

__all__ = ["FLAWS", "FONTS", "Chip", "Mark", "draw_chip"]

FLAWS = ("low contrast", "blurry", "broken")
"""In the order of ICText's `aesthetic` flags."""
FLAWED = 0.35
"""Probability of each: then 0.65³ = 27 % are flawless, as 19,153 of ICText's 69,750 training characters."""

FONTS = (
    *("", "DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSansMono-Bold"),
    *("cmss10", "cmtt10", "STIXGeneralBol", "DejaVuSerif-Bold"),
)
"""Files that matplotlib ships; the nameless one is Pillow's own."""
DRAWN_AT = 72
HEIGHTS = (16, 44)
MARGIN = 8


@dataclass(frozen=True)
class Mark:
    """One character on a chip.

    Attributes:
        name: what it shows.
        corners: x1, y1, …, x4, y4 in pixels, clockwise from its upper left corner.
        flaws: whether it has each of `FLAWS`.
    """

    name: str
    corners: tuple[float, ...]
    flaws: tuple[bool, bool, bool]


@dataclass(frozen=True)
class Chip:
    """A picture uint8 (H, W, 3) of a chip's top, and the characters on it in reading order."""

    pixels: NDArray[np.uint8]
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class _Print:
    """How a chip is marked: heights in pixels, brightness from 0 to 1."""

    font: str
    height: int
    narrowing: float
    spacing: float
    tilt: float
    plastic: float
    ink: float


def draw_chip(characters: Sequence[str], seed: int) -> Chip:
    """Draw a chip with these characters on one to three lines.

    One chip has one font, size, tilt, ink and light; each character has each flaw of its own, or not.

    Args:
        characters: letters and digits, at least one.
        seed: of everything else, any integer >= 0.

    >>> chip = draw_chip("TL074", seed=0)
    >>> "".join(mark.name for mark in chip.marks), chip.pixels.shape[2]
    ('TL074', 3)
    """
    # RandomState's stream is frozen, so a chip is the same under every numpy.
    stream = np.random.RandomState(seed % 2**32)
    style = _style(stream)
    glyphs = [_glyph(style, name) for name in characters]
    centres, height, width = _arranged(glyphs, style, stream)
    grey = plastic(style.plastic, height, width, stream)
    marks = []
    for name, glyph, centre in zip(characters, glyphs, centres, strict=True):
        low_contrast, blurry, flaked = (bool(flaw) for flaw in stream.random_sample(len(FLAWS)) < FLAWED)
        strength = stream.uniform(0.2, 0.4) if low_contrast else stream.uniform(0.85, 1.0)
        shape = broken(glyph, stream) if flaked else glyph
        _print_on(grey, shape, centre, style, strength, stream)
        marks.append(Mark(name, _corners(glyph, centre, style), (low_contrast, blurry, flaked)))
    picture = Image.fromarray(photographed(grey, stream))
    for mark in marks:
        if mark.flaws[1]:
            blur(picture, mark.corners, style.height * stream.uniform(0.04, 0.08))
    return Chip(with_noise(np.asarray(picture), stream), tuple(marks))


def _style(stream: np.random.RandomState) -> _Print:
    brightness = stream.uniform(0.08, 0.42)
    return _Print(
        font=FONTS[stream.randint(len(FONTS))],
        height=int(stream.randint(*HEIGHTS)),
        narrowing=stream.uniform(0.65, 1.05),
        spacing=stream.uniform(0.12, 0.35),
        tilt=float(np.clip(stream.normal(0, 2.5), -8, 8)),
        plastic=brightness,
        ink=brightness + stream.uniform(0.5, 0.9),
    )


@cache
def _drawn(font: str, name: str) -> Image.Image:
    """A character in white on black, large, without an empty margin."""
    if font:
        file = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{font}.ttf")
        face: ImageFont.FreeTypeFont | ImageFont.ImageFont = ImageFont.truetype(file, DRAWN_AT)
    else:
        face = ImageFont.load_default(DRAWN_AT)
    canvas = Image.new("L", (2 * DRAWN_AT, 2 * DRAWN_AT))
    ImageDraw.Draw(canvas).text((DRAWN_AT // 2, DRAWN_AT // 2), name, fill=255, font=face)
    return canvas.crop(canvas.getbbox())


def _glyph(style: _Print, name: str) -> Grey:
    large = _drawn(style.font, name)
    scale = style.height / _drawn(style.font, "H").height
    width = max(round(large.width * scale * style.narrowing), 2)
    small = large.resize((width, max(round(large.height * scale), 4)), Image.Resampling.BILINEAR)
    return as_grey(small)


def _arranged(
    glyphs: Sequence[Grey], style: _Print, stream: np.random.RandomState
) -> tuple[list[tuple[float, float]], int, int]:
    """The centre of each glyph, (x, y), and the height and width of the picture."""
    lines = int(stream.randint(1, 4))
    per_line = math.ceil(len(glyphs) / lines)
    gap, places, x = style.spacing * style.height, [], 0.0
    for k, glyph in enumerate(glyphs):
        x = 0.0 if k % per_line == 0 else x + gap
        places.append((x + glyph.shape[1] / 2, (k // per_line) * style.height * 1.5))
        x += glyph.shape[1]
    turned = [_turned(place, style.tilt) for place in places]
    reach = MARGIN + style.height
    left, top = (min(place[axis] for place in turned) - reach for axis in (0, 1))
    right, bottom = (max(place[axis] for place in turned) + reach for axis in (0, 1))
    return [(x - left, y - top) for x, y in turned], math.ceil(bottom - top), math.ceil(right - left)


def _turned(place: tuple[float, float], degrees: float) -> tuple[float, float]:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return place[0] * cosine + place[1] * sine, place[1] * cosine - place[0] * sine


def _corners(glyph: Grey, centre: tuple[float, float], style: _Print) -> tuple[float, ...]:
    x, y = (length / 2 + 1.5 for length in (glyph.shape[1], glyph.shape[0]))
    turned = [_turned(corner, style.tilt) for corner in ((-x, -y), (x, -y), (x, y), (-x, y))]
    return tuple(round(centre[axis] + corner[axis], 1) for corner in turned for axis in (0, 1))


def _print_on(
    grey: Grey,
    glyph: Grey,
    centre: tuple[float, float],
    style: _Print,
    strength: float,
    stream: np.random.RandomState,
) -> None:
    """Cover the plastic with ink where the glyph is; the ink is as grainy as what it lies on."""
    turned = as_image(glyph).rotate(style.tilt, Image.Resampling.BILINEAR, expand=True)
    cover = as_grey(turned) * np.float32(strength)
    cover *= 1 - 0.25 * even_noise(cover.shape[0], cover.shape[1], stream)
    top, left = round(centre[1] - cover.shape[0] / 2), round(centre[0] - cover.shape[1] / 2)
    under = grey[top : top + cover.shape[0], left : left + cover.shape[1]]
    under += cover * (np.float32(style.ink) - under)
