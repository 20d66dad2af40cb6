"""Images in memory as users have them: of Pillow, arrays and tensors."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ffds.errors import InputError

__all__ = ["picture"]

CHANNELS = (1, 3, 4)


def picture(image: object) -> Image.Image:
    """An image of Pillow of our own, which may be changed.

    Raises:
        InputError: it is neither an image of Pillow, nor an array uint8 (H, W) or (H, W, C), nor a tensor
            (H, W) or (C, H, W) of uint8 or of floating-point numbers from 0 to 1, with C = 1, 3 or 4.
    """
    if isinstance(image, Image.Image):
        return image.copy()
    array = _bytes_of(image) if isinstance(image, Tensor) else image
    if not isinstance(array, np.ndarray):
        allowed = "a path, an image of Pillow, an array or a tensor"
        raise InputError("not an image", got=type(image).__name__, allowed=allowed)
    if array.dtype != np.uint8:
        allowed = "uint8; a tensor may also have floating-point numbers from 0 to 1"
        raise InputError("pixels of another type", got=array.dtype, allowed=allowed)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in {2, 3} or (array.ndim == 3 and array.shape[2] not in CHANNELS) or not array.size:
        allowed = "array (H, W) or (H, W, C), tensor (H, W) or (C, H, W), with C = 1, 3 or 4"
        raise InputError("not the shape of an image", got=tuple(array.shape), allowed=allowed)
    return Image.fromarray(np.ascontiguousarray(array))


def _bytes_of(image: Tensor) -> NDArray[np.uint8]:
    """A tensor (H, W) or (C, H, W) as an array uint8 (H, W) or (H, W, C)."""
    pixels = image.detach().cpu()
    if pixels.is_floating_point():
        if not bool(((pixels >= 0) & (pixels <= 1)).all()):
            what, fix = "floating-point pixels outside of 0 to 1", "give them before they are normalised"
            raise InputError(what, allowed="0 to 1", fix=fix)
        pixels = (pixels.float() * 255).round().to(torch.uint8)
    array: NDArray[np.uint8] = pixels.numpy()
    return array.transpose(1, 2, 0) if array.ndim == 3 else array
