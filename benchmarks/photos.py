"""Generates JPEGs that take as long to decode as photographs, once, in a folder of classes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["photo", "photo_folder"]

CLASSES = 10
SIZES = ((500, 375), (500, 375), (500, 333), (375, 500))
"""Width and height: most photographs of ImageNet are one of these."""
SCENE = 1024
SCENES = 4
QUALITY = 90
TEST_IMAGES = 10
FORMAT = 1
"""Raise it when the same seeds give other pictures."""


def photo_folder(count: int) -> Path:
    """An image folder of `count` training pictures below the temporary directory; written once.

    Args:
        count: at least one a class.
    """
    root = Path(tempfile.gettempdir()) / f"ffds-photos-{count}-format{FORMAT}"
    if not root.exists():
        with tempfile.TemporaryDirectory(dir=root.parent) as unfinished:
            part = Path(unfinished) / root.name
            scenes = [_scene(number) for number in range(SCENES)]
            for split, size in (("train", count), ("test", TEST_IMAGES)):
                for k in range(size):
                    file = part / split / f"class{k % CLASSES}" / f"{k:06d}.jpg"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    photo(scenes, (split == "test") * count + k).save(file, quality=QUALITY)
            part.rename(root)
    return root


def photo(scenes: list[NDArray[np.float32]], seed: int) -> Image.Image:
    """Two scenes in one picture, the second behind an edge, with the noise of a sensor.

    Args:
        scenes: float32 (SCENE, SCENE, 3) each, from 0 to 255.
        seed: decides every pixel.
    """
    chance = np.random.default_rng(seed)
    width, height = SIZES[chance.integers(len(SIZES))]
    front, back = (_window(scenes[k], chance, height, width) for k in chance.choice(len(scenes), 2))
    y, x = np.ogrid[:height, :width]
    slope, middle = chance.normal(size=2), chance.random(2) * (height, width)
    in_front = slope[0] * (y - middle[0]) + slope[1] * (x - middle[1]) > 0
    pixels = np.where(in_front[..., None], front, back)
    pixels = pixels * chance.uniform(0.6, 1.2, 3) + chance.normal(scale=5, size=(height, width, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _window(
    scene: NDArray[np.float32], chance: np.random.Generator, height: int, width: int
) -> NDArray[np.float32]:
    top, left = chance.integers(SCENE - height), chance.integers(SCENE - width)
    return scene[top : top + height, left : left + width]


def _scene(seed: int) -> NDArray[np.float32]:
    """Noise with the spectrum of natural images, amplitude ∝ 1 / frequency, from 0 to 255."""
    chance = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(SCENE)[:, None], np.fft.rfftfreq(SCENE))
    frequency[0, 0] = np.inf
    grey, *colours = (
        np.fft.irfft2(np.fft.rfft2(chance.normal(size=(SCENE, SCENE))) / frequency) for _ in range(4)
    )
    planes = np.stack([4 * grey + colour for colour in colours], axis=-1)
    low, high = np.percentile(planes, [1, 99])
    return ((planes - low) * (255 / (high - low))).clip(0, 255).astype(np.float32)
