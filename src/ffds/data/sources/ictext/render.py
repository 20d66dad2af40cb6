"""Rendered look-alikes of ICText-LT, for those who have no agreement for the photographs."""

from __future__ import annotations

import json
import math
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from ffds.data.sources.ictext.layout import CHARACTERS, MARKER, PAPER, RENDERED, Sizes, cut_out, write_layout
from ffds.errors import InputError
from ffds.files import write_json
from ffds.progress import track
from ffds.seeding import derived_seed

__all__ = ["FLAWS", "FONTS", "Chip", "Mark", "draw_character", "draw_chip", "rendered_sample", "write_parent"]

FORMAT = 1
"""Raise it when the same seed gives other images."""
PER_CHIP = 10
FLAWS = ("low contrast", "blurry", "broken")
"""In the order of ICText's `aesthetic` flags."""
FLAWED = 0.35
"""Probability of each: then 0.65³ = 27 % are flawless, as 19,153 of ICText's 69,750 training characters."""
FONTS = (
    *("", "DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSansMono-Bold"),
    *("cmss10", "cmtt10", "STIXGeneralBol", "DejaVuSerif-Bold"),
)
"""Files that matplotlib ships; the one without a name is Pillow's own."""
DRAWN_AT = 72
HEIGHTS = (16, 44)
MARGIN = 8
README = f"""# {RENDERED}

The 36 characters of ICText-LT, drawn with the fonts of matplotlib and Pillow on backgrounds that look like
chips: no photograph, nothing from ICText. The class counts are those of ICText-LT (Nah et al., ICIP 2023);
accuracies measured on these images say nothing about it. `{MARKER}` holds the seed.
"""
Grey = NDArray[np.float32]
"""Brightness or cover from 0 to 1, (H, W)."""
Point = tuple[float, float]
"""(x, y) in pixels."""
Stream = np.random.RandomState
"""numpy has frozen its values, so a chip is the same under every numpy."""


def rendered_sample(directory: Path, seed: int, sizes: Sizes = PAPER) -> Path:
    """The sample below `directory`, in the layout of the natural ICText-LT; rendered only if it is missing.

    The seed, any integer >= 0, decides every pixel.
    """
    root = directory / f"ictext-sample-seed{seed}"
    made = {"format": FORMAT, "seed": seed, "natural": list(sizes.natural), "test": sizes.test}
    if not root.exists():
        counts = {"train": dict(zip(CHARACTERS, sizes.natural, strict=True))}
        counts["val"] = dict.fromkeys(CHARACTERS, sizes.test)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=directory, prefix=".") as unfinished:
                part = Path(unfinished, root.name)
                write_layout(
                    part, {split: _crops(split, counts[split], seed) for split in counts}, README, made
                )
                part.rename(root)
        except OSError as error:
            if not root.exists():  # another process may have been faster
                raise InputError("the sample cannot be rendered", where=root, got=error) from error
    try:
        marker = json.loads((root / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        marker = None
    if marker != {"what": RENDERED, **made}:
        what, got = "this is not the rendered sample that is asked for", json.dumps(marker)
        allowed = f"format {FORMAT}, seed {seed}, {sum(sizes.natural)} training images"
        fix = "remove the directory, so that it is rendered again, or give another data.root"
        raise InputError(what, where=root / MARKER, got=got, allowed=allowed, fix=fix)
    return root


def write_parent(directory: Path, split: str, counts: Mapping[str, int], seed: int) -> tuple[Path, Path]:
    """Write rendered chips in ICText's form and return ``<split>.json`` and the folder ``<split>/``.

    `counts` says how often each letter or digit appears, lower case too.
    """
    names = CHARACTERS + string.ascii_lowercase
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (directory / split).mkdir()
    for k, chip in enumerate(_chips(split, counts, seed)):
        height, width = chip.pixels.shape[:2]
        images.append({"id": k, "file_name": f"{k:05d}.png", "height": height, "width": width})
        Image.fromarray(chip.pixels).save(directory / split / images[k]["file_name"], compress_level=1)
        for mark in chip.marks:
            annotation = {"id": len(annotations), "image_id": k, "bbox": mark.corners}
            annotation |= {"category_id": names.index(mark.name), "aesthetic": list(map(int, mark.flaws))}
            annotations.append(annotation | {"ignore": 0})
    categories = [{"id": k, "name": name} for k, name in enumerate(names)]
    info = {"description": f"{RENDERED}; aesthetic: {', '.join(FLAWS)}"}
    content = {"info": info, "images": images, "annotations": annotations, "categories": categories}
    write_json(directory / f"{split}.json", content)
    return directory / f"{split}.json", directory / split


def _crops(split: str, counts: Mapping[str, int], seed: int) -> Iterator[tuple[str, str, bytes]]:
    """Name, character and content of each image file."""
    for k, chip in enumerate(_chips(split, counts, seed)):
        for place, mark in enumerate(chip.marks):
            yield f"{k:05d}_{place}.png", mark.name, cut_out(chip.pixels, mark.corners)


def _chips(split: str, counts: Mapping[str, int], seed: int) -> Iterator[Chip]:
    """Chips that together carry each character as often as asked for, in random order."""
    stream = Stream(derived_seed(seed, "ictext", split) % 2**32)
    text = stream.permutation([name for name, count in counts.items() for _ in range(count)]).tolist()
    starts = range(0, len(text), PER_CHIP)
    for start in track(starts, f"rendered {split} chips, not ICText"):
        yield draw_chip(text[start : start + PER_CHIP], derived_seed(seed, "ictext", split, start))


@dataclass(frozen=True)
class Mark:
    """A character, its corners x1, y1, …, x4, y4 clockwise from the upper left, and which `FLAWS` it has."""

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
    ink: float


def draw_chip(characters: Sequence[str], seed: int) -> Chip:
    """Draw a chip with these letters and digits on one to three lines; the seed decides everything else.

    One chip has one font, size, tilt, ink and light; each character has each flaw independently.

    >>> chip = draw_chip("TL074", seed=0)
    >>> "".join(mark.name for mark in chip.marks), chip.pixels.shape[2]
    ('TL074', 3)
    """
    stream = Stream(seed % 2**32)
    brightness = stream.uniform(0.08, 0.42)
    style = _Print(
        font=FONTS[stream.randint(len(FONTS))],
        height=int(stream.randint(*HEIGHTS)),
        narrowing=stream.uniform(0.65, 1.05),
        spacing=stream.uniform(0.12, 0.35),
        tilt=float(np.clip(stream.normal(0, 2.5), -8, 8)),
        ink=brightness + stream.uniform(0.5, 0.9),
    )
    glyphs = [_glyph(style, name) for name in characters]
    centres, height, width = _arranged(glyphs, style, stream)
    grey = _plastic(brightness, height, width, stream)
    marks = []
    for name, glyph, centre in zip(characters, glyphs, centres, strict=True):
        low_contrast, blurry, broken = (bool(flaw) for flaw in stream.random_sample(len(FLAWS)) < FLAWED)
        strength = stream.uniform(0.2, 0.4) if low_contrast else stream.uniform(0.85, 1.0)
        shape = _broken(glyph, stream) if broken else glyph
        _print_on(grey, shape, centre, style, strength, stream)
        marks.append(Mark(name, _corners(glyph, centre, style), (low_contrast, blurry, broken)))
    # Slightly warm, as industrial light is.
    tint = 1 + np.array([0.03, -0.01, -0.02]) + stream.normal(0, 0.03, 3)
    picture = Image.fromarray(np.clip(grey[..., None] * (255 * tint), 0, 255).astype(np.uint8))
    for mark in marks:
        if mark.flaws[1]:
            _blur(picture, mark.corners, style.height * stream.uniform(0.04, 0.08))
    # The sensor's noise, which no blur of the lens softens.
    amount = stream.uniform(3, 12)
    noise = (_even_noise(height, width, stream) + _even_noise(height, width, stream) - 1) * amount
    return Chip(np.clip(np.asarray(picture) + noise[..., None], 0, 255).astype(np.uint8), tuple(marks))


@cache
def draw_character(font: str, name: str) -> Image.Image:
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
    large = draw_character(style.font, name)
    scale = style.height / draw_character(style.font, "H").height
    size = max(round(large.width * scale * style.narrowing), 2), max(round(large.height * scale), 4)
    return _as_grey(large.resize(size, Image.Resampling.BILINEAR))


def _arranged(glyphs: Sequence[Grey], style: _Print, stream: Stream) -> tuple[list[Point], int, int]:
    """The centre of each glyph, and the height and width of the picture."""
    per_line = math.ceil(len(glyphs) / int(stream.randint(1, 4)))
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


def _turned(place: Point, degrees: float) -> Point:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return place[0] * cosine + place[1] * sine, place[1] * cosine - place[0] * sine


def _corners(glyph: Grey, centre: Point, style: _Print) -> tuple[float, ...]:
    x, y = glyph.shape[1] / 2 + 1.5, glyph.shape[0] / 2 + 1.5
    turned = [_turned(corner, style.tilt) for corner in ((-x, -y), (x, -y), (x, y), (-x, y))]
    return tuple(round(centre[axis] + corner[axis], 1) for corner in turned for axis in (0, 1))


def _print_on(grey: Grey, glyph: Grey, centre: Point, style: _Print, strength: float, stream: Stream) -> None:
    """Cover the plastic with ink where the glyph is; the ink is as grainy as what it lies on."""
    turned = _as_image(glyph).rotate(style.tilt, Image.Resampling.BILINEAR, expand=True)
    cover = _as_grey(turned) * np.float32(strength)
    height, width = cover.shape
    cover *= 1 - 0.25 * _even_noise(height, width, stream)
    top, left = round(centre[1] - height / 2), round(centre[0] - width / 2)
    under = grey[top : top + height, left : left + width]
    under += cover * (np.float32(style.ink) - under)


def _plastic(brightness: float, height: int, width: int, stream: Stream) -> Grey:
    """Moulded plastic: fine grain on coarser speckle, lit from one side."""
    grain, speckle = (
        _smooth(_even_noise(height // part + 1, width // part + 1, stream), height, width) - 0.5
        for part in (2, 6)
    )
    angle, slope = stream.uniform(0, 2 * math.pi), stream.uniform(0, 0.5)
    rows = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None] * math.sin(angle)
    columns = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None, :] * math.cos(angle)
    light = 1 + slope * (rows + columns) + stream.uniform(0.1, 0.5) * grain + stream.uniform(0, 0.3) * speckle
    return np.asarray(brightness * light, dtype=np.float32)


def _broken(glyph: Grey, stream: Stream) -> Grey:
    """The glyph with one or two cuts across it and some of its ink flaked off."""
    height, width = glyph.shape
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    whole = glyph.copy()
    for _ in range(stream.randint(1, 3)):
        angle, y, x = stream.uniform(0, math.pi), stream.uniform(0, height), stream.uniform(0, width)
        distance = np.abs((rows - y) * math.cos(angle) + (columns - x) * math.sin(angle))
        whole *= np.clip(distance - height * stream.uniform(0.02, 0.06), 0, 1)
    flakes = _smooth(_even_noise(6, 5, stream), height, width)
    whole *= np.clip((flakes - stream.uniform(0.1, 0.35)) * 8, 0, 1)
    return whole


def _blur(picture: Image.Image, corners: tuple[float, ...], radius: float) -> None:
    """Blur the upright rectangle around these corners, in place."""
    left, top = (int(min(corners[axis::2])) for axis in (0, 1))
    right, bottom = (math.ceil(max(corners[axis::2])) for axis in (0, 1))
    soft = picture.crop((left, top, right, bottom)).filter(ImageFilter.GaussianBlur(radius))
    picture.paste(soft, (left, top))


def _even_noise(height: int, width: int, stream: Stream) -> Grey:
    """Even noise between 0 and 1."""
    drawn = np.frombuffer(stream.bytes(height * width), dtype=np.uint8)
    return drawn.reshape(height, width).astype(np.float32) / np.float32(255)


def _as_image(grey: Grey) -> Image.Image:
    return Image.fromarray((grey * 255).astype(np.uint8))


def _as_grey(image: Image.Image) -> Grey:
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def _smooth(coarse: Grey, height: int, width: int) -> Grey:
    return _as_grey(_as_image(coarse).resize((width, height), Image.Resampling.BICUBIC))
