"""Images as users have them, brought to the pixels that a network was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ffds.data.decode import Stored, attempt, pixels_of
from ffds.data.pictures import picture
from ffds.data.sources.registry import SOURCES
from ffds.errors import InputError
from ffds.run_directory import Run

__all__ = ["AnyImage", "images_in", "pixels_or_fault", "stored_like"]

AnyImage: TypeAlias = str | Path | Image.Image | NDArray[np.uint8] | Tensor
"""A path, an image of Pillow, an array uint8 (H, W) or (H, W, C), or a tensor (H, W) or (C, H, W)."""


def stored_like(run: Run, channels: int) -> Stored:
    """How the images of a run are held: the shape noted in its environment, or else what its recipe implies.

    A run of an earlier version whose images were taken as they are takes every image as it is.

    Raises:
        InputError: the images were taken as they are and were no squares.
    """
    data = run.recipe.data
    source, mode = SOURCES[data.name], "L" if channels == 1 else "RGB"
    side = source.side or data.eval_resize or data.image_size
    shape = run.environment.get("image_shape")
    if isinstance(shape, list):
        side, width, _ = shape
        if side != width:
            what = "this network was trained on images as they are, which are no squares"
            fix = "train it with data.image_size=S to predict images of any size"
            raise InputError(what, where=run.path, got=f"{width}x{side}", fix=fix)
    return Stored(side, "L" if mode == "L" else "RGB", source.fit, data.interpolation)


def images_in(given: object) -> list[AnyImage] | None:
    """The images of a list, tuple, or batch (N, …) in one array or tensor; None where it is one image."""
    if isinstance(given, list | tuple):
        return list(given)
    return list(given) if isinstance(given, np.ndarray | Tensor) and given.ndim == 4 else None


def pixels_or_fault(image: AnyImage, stored: Stored) -> NDArray[np.uint8] | str:
    """The pixels (H, W, C) of an image, or what is wrong with it.

    A path gives the pixels that training had. So does an image that has the stored size already; another one
    is resized as files are, though a JPEG that Pillow has opened is decoded in full size first.
    """
    try:
        if isinstance(image, str | Path):
            return attempt(Path(image), stored)
        return pixels_of(picture(image), stored)
    except (ValueError, OSError, Image.DecompressionBombWarning) as error:
        return f"{type(error).__name__}: {error}"
