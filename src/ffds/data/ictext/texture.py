"""What gives a rendered chip its look: plastic, ink that breaks off, light, blur and noise."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

__all__ = [
    "Grey",
    "as_grey",
    "as_image",
    "blur",
    "broken",
    "even_noise",
    "photographed",
    "plastic",
    "with_noise",
]

Grey = NDArray[np.float32]
"""Brightness or cover from 0 to 1, (H, W)."""


def plastic(brightness: float, height: int, width: int, stream: np.random.RandomState) -> Grey:
    """Moulded plastic: fine grain on coarser speckle, lit from one side."""
    grain = _smooth(even_noise(height // 2 + 1, width // 2 + 1, stream), height, width) - 0.5
    speckle = _smooth(even_noise(height // 6 + 1, width // 6 + 1, stream), height, width) - 0.5
    angle, slope = stream.uniform(0, 2 * math.pi), stream.uniform(0, 0.5)
    rows = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None] * math.sin(angle)
    columns = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None, :] * math.cos(angle)
    light = 1 + slope * (rows + columns) + stream.uniform(0.1, 0.5) * grain + stream.uniform(0, 0.3) * speckle
    return np.asarray(brightness * light, dtype=np.float32)


def broken(glyph: Grey, stream: np.random.RandomState) -> Grey:
    """The glyph with one or two cuts across it and some of its ink flaked off."""
    height, width = glyph.shape
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    whole = glyph.copy()
    for _ in range(stream.randint(1, 3)):
        angle, y, x = stream.uniform(0, math.pi), stream.uniform(0, height), stream.uniform(0, width)
        distance = np.abs((rows - y) * math.cos(angle) + (columns - x) * math.sin(angle))
        whole *= np.clip(distance - height * stream.uniform(0.02, 0.06), 0, 1)
    flakes = _smooth(even_noise(6, 5, stream), height, width)
    whole *= np.clip((flakes - stream.uniform(0.1, 0.35)) * 8, 0, 1)
    return whole


def photographed(grey: Grey, stream: np.random.RandomState) -> NDArray[np.uint8]:
    """The picture in colour, slightly warm as industrial light is."""
    tint = 1 + np.array([0.03, -0.01, -0.02]) + stream.normal(0, 0.03, 3)
    return np.clip(grey[..., None] * (255 * tint), 0, 255).astype(np.uint8)


def blur(picture: Image.Image, corners: tuple[float, ...], radius: float) -> None:
    """Blur a part of a picture in place: the upright rectangle around these corners."""
    left, top = (int(min(corners[axis::2])) for axis in (0, 1))
    right, bottom = (math.ceil(max(corners[axis::2])) for axis in (0, 1))
    soft = picture.crop((left, top, right, bottom)).filter(ImageFilter.GaussianBlur(radius))
    picture.paste(soft, (left, top))


def with_noise(pixels: NDArray[np.uint8], stream: np.random.RandomState) -> NDArray[np.uint8]:
    """The sensor's own noise, which no blur of the lens softens."""
    amount = stream.uniform(3, 12)
    height, width = pixels.shape[:2]
    noise = (even_noise(height, width, stream) + even_noise(height, width, stream) - 1) * amount
    return np.clip(pixels + noise[..., None], 0, 255).astype(np.uint8)


def even_noise(height: int, width: int, stream: np.random.RandomState) -> Grey:
    """Even noise between 0 and 1."""
    drawn = np.frombuffer(stream.bytes(height * width), dtype=np.uint8)
    return drawn.reshape(height, width).astype(np.float32) / np.float32(255)


def as_image(grey: Grey) -> Image.Image:
    """As 8 bits, which Pillow resizes and turns."""
    return Image.fromarray((grey * 255).astype(np.uint8))


def as_grey(image: Image.Image) -> Grey:
    """Back from 8 bits."""
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def _smooth(coarse: Grey, height: int, width: int) -> Grey:
    return as_grey(as_image(coarse).resize((width, height), Image.Resampling.BICUBIC))
