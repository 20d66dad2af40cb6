"""Random augmentation, resizing and normalisation of whole batches, on the device where the images are."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ffds.data.augment.operations import apply, cut_out, erase
from ffds.data.augment.policies import draw_boxes, draw_holes, draw_operations
from ffds.errors import InputError
from ffds.recipes.schema import Data, Interpolation

__all__ = ["EvalTransform", "TrainTransform", "by_products", "resample", "resample_boxes"]

AREA = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
TRIES = 10


class TrainTransform:
    """Random training images from stored ones, by the steps of `data.augment`.

    The steps run in one order whatever order the recipe names them in: flips (each with probability ½), crop,
    resize, a policy, colour jitter, grayscale, cutout, normalise, erasing. Flipping first changes no
    probability: crops are symmetric.

    - ``pad-crop``: `data.padding` zero pixels on each side, then a crop of the stored size; zero is the pixel
      value before normalisation, as in torchvision's ``RandomCrop(padding=...)``.
    - ``resized-crop``: a box of 8 to 100 % of the area with aspect ratio 3/4 to 4/3, resampled to
      `data.image_size`; the distribution of torchvision's ``RandomResizedCrop``.
    - Without ``resized-crop``, images are resized to `data.image_size` if they are stored at another size.
    - ``randaugment``, ``trivialaugment``, ``autoaugment-cifar``, ``autoaugment-imagenet``, ``color-jitter``,
      ``random-erasing``: as torchvision's transforms of these names, see `ffds.data.augment.policies`.
    - ``color-jitter`` changes an image with `data.color_jitter_probability`, ``grayscale`` takes its colours
      with `data.grayscale_probability`, ``cutout`` blackens a square of side `data.cutout_size`.

    `data.mean` and `data.std` are on the scale 0 to 1.
    """

    def __init__(self, data: Data) -> None:
        self.data = data

    def __call__(
        self, images: Tensor, seed: int, *, rows: slice | Tensor = slice(None), global_size: int | None = None
    ) -> Tensor:
        """Augment a batch, or a rank's part, uint8 (B, H, W, C), to float32 (B, C, h, w), channels-last.

        The seed decides every draw of the global batch of `global_size` images (None: `images` are all of
        it), in which these stand at `rows`. InputError where `mean` and `std` do not fit the channels.
        """
        data, (height, width) = self.data, images.shape[1:3]
        # One copy, for which the host does not wait.
        total = global_size or len(images)
        draws = self.draw(seed, total, height, width)[rows]
        draws = draws.to(images.device, non_blocking=True)
        boxes = draws[:, 2:]
        if "hflip" in data.augment:
            images = _flipped(images, draws[:, 0], dim=2)
        if "vflip" in data.augment:
            images = _flipped(images, draws[:, 1], dim=1)
        if "pad-crop" in data.augment:
            images = _pad_cropped(images, boxes, data.padding)
        size = (data.image_size or height, data.image_size or width)
        if "resized-crop" in data.augment:
            images = resample_boxes(images, boxes, size, data.interpolation)
        elif size != (height, width):
            images = resample(images, size, data.interpolation)
        operations = draw_operations(data, seed, total, *size)[:, rows]
        images = apply(images.permute(0, 3, 1, 2), operations)
        if "cutout" in data.augment:
            images = cut_out(images, draw_holes(data.cutout_size, seed, total, *size)[rows])
        images = images.permute(0, 2, 3, 1)
        pixels = _normalised(images, data)
        if "random-erasing" in data.augment:
            erase(pixels, draw_boxes(data.erasing_probability, seed, total, *size)[rows])
        return pixels

    def draw(self, seed: int, size: int, height: int, width: int) -> Tensor:
        """The random draws for the `size` images of a global batch, from a generator of their own.

        Returns:
            int64 (B, 6) on the CPU: 1 to mirror left and right, 1 to mirror top and bottom, then top, left,
            height and width of the crop (of a pad-crop in the padded image).
        """
        generator = torch.Generator().manual_seed(seed)
        flips = torch.randint(2, (size, 2), generator=generator)
        if "resized-crop" in self.data.augment:
            boxes = _resized_crop_boxes(generator, size, height, width)
        else:
            offsets = torch.randint(2 * self.data.padding + 1, (size, 2), generator=generator)
            boxes = torch.cat([offsets, torch.tensor([height, width]).expand(size, 2)], dim=1)
        return torch.cat([flips, boxes], dim=1)


class EvalTransform:
    """Evaluation images without chance: resize, centre crop, normalise.

    With `data.eval_resize`, the short side is resized to it and the centre of side `data.image_size` is kept;
    with `data.image_size` alone, both sides are resized to it; with neither, images stay as stored.
    """

    def __init__(self, data: Data) -> None:
        self.data = data

    def __call__(self, images: Tensor) -> Tensor:
        """Images uint8 (B, H, W, C) as float32 (B, C, h, w), channels-last, on the same device.

        Raises:
            InputError: `mean` and `std` do not fit the number of channels.
        """
        (height, width), side = images.shape[1:3], self.data.image_size
        interpolation = self.data.interpolation
        if side is not None and self.data.eval_resize is not None:
            short = min(height, width)
            resized = [int(self.data.eval_resize * length / short) for length in (height, width)]
            centre = [slice(start := round((length - side) / 2), start + side) for length in resized]
            images = resample(images, (resized[0], resized[1]), interpolation)[:, centre[0], centre[1]]
        elif side is not None and (side, side) != (height, width):
            images = resample(images, (side, side), interpolation)
        return _normalised(images, self.data)


def resample(images: Tensor, size: tuple[int, int], interpolation: Interpolation = "bilinear") -> Tensor:
    """Resize images, uint8 (B, H, W, C), as torchvision's ``resize(antialias=True)`` does; `size` is (h, w).

    >>> resample(torch.tensor([0, 8, 16, 24], dtype=torch.uint8).view(1, 1, 4, 1), (1, 2)).flatten()
    tensor([ 6, 18], dtype=torch.uint8)
    """
    if images.device.type == "cpu":
        return _interpolated(images, size, interpolation)
    height, width = images.shape[1:3]
    whole = torch.tensor([[0, 0, height, width]]).to(images.device, non_blocking=True)
    return by_products(images, whole, size, interpolation)


def resample_boxes(
    images: Tensor, boxes: Tensor, size: tuple[int, int], interpolation: Interpolation = "bilinear"
) -> Tensor:
    """Crop each image to its own box and resize that, as torchvision's ``resized_crop`` does with one image.

    `images` are uint8 (B, H, W, C), `boxes` int64 (B, 4): top, left, height and width of each; `size` is
    (h, w). On the CPU torch's own kernel takes one box after the other; elsewhere all are two products.
    """
    if images.device.type != "cpu":
        return by_products(images, boxes, size, interpolation)
    pairs = zip(images, boxes.tolist(), strict=True)
    crops = [image[None, top : top + tall, left : left + wide] for image, (top, left, tall, wide) in pairs]
    return torch.cat([_interpolated(crop, size, interpolation) for crop in crops])


def by_products(
    images: Tensor, boxes: Tensor, size: tuple[int, int], interpolation: Interpolation = "bilinear"
) -> Tensor:
    """`resample_boxes` without a loop, on any device, rounded after each axis as torch's kernel does.

    A pixel may differ from that kernel's by one, rarely two, where the exact value lies in the middle of two
    integers: the kernel has weights of 16 bits. One row of `boxes` is a box for all images.
    """
    batch, height, width, channels = images.shape
    top, left, tall, wide = boxes.unbind(1)
    columns = _weights(left, wide, width, size[1], interpolation)
    lines = images.float().transpose(2, 3).reshape(batch, height * channels, width)
    narrowed = (lines @ columns.transpose(1, 2)).add_(0.5).floor_()
    narrowed = _in_range(narrowed, interpolation).view(batch, height, channels, size[1])
    stacked = narrowed.transpose(2, 3).reshape(batch, height, size[1] * channels)
    resized = (_weights(top, tall, height, size[0], interpolation) @ stacked).add_(0.5)
    return _in_range(resized, interpolation).to(torch.uint8).view(batch, *size, channels)


def _in_range(pixels: Tensor, interpolation: Interpolation) -> Tensor:
    """From 0 to 255, in place: bicubic weights, some of them negative, may lead beyond."""
    return pixels.clamp_(0, 255) if interpolation == "bicubic" else pixels


def _weights(
    start: Tensor, length: Tensor, in_size: int, out_size: int, interpolation: Interpolation
) -> Tensor:
    """Weights (B, out_size, in_size) that resample `length` pixels (B,) from `start` (B,) on along one axis.

    With s = length / out_size, output pixel i looks at c_i = start + s (i + ½) and takes input pixel j with

        w_ij ∝ k(|j + ½ − c_i| / max(s, 1)),   start ≤ j < start + length,   Σ_j w_ij = 1,

    which is ``torch.nn.functional.interpolate(mode=interpolation, antialias=True)`` of the box. The kernel is
    k(x) = max(0, 1 − x), or for bicubic (Keys, 1981, with a = −½)

        k(x) = 1.5 x³ − 2.5 x² + 1 for x < 1,   −0.5 x³ + 2.5 x² − 4 x + 2 for 1 ≤ x < 2,   0 beyond.
    """
    start, length = start[:, None, None], length[:, None, None]
    scale = length / out_size
    centre = scale * (torch.arange(out_size, device=start.device)[:, None] + 0.5)
    pixel = torch.arange(in_size, device=start.device) - start
    distance = (pixel + 0.5 - centre).abs() / scale.clamp(min=1)
    weights = (1 - distance).clamp(min=0) if interpolation == "bilinear" else _cubic(distance)
    weights = weights * ((pixel >= 0) & (pixel < length))
    return weights / weights.sum(-1, keepdim=True)


def _cubic(x: Tensor) -> Tensor:
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _interpolated(images: Tensor, size: tuple[int, int], interpolation: Interpolation) -> Tensor:
    pixels = F.interpolate(images.permute(0, 3, 1, 2), size, mode=interpolation, antialias=True)
    return pixels.permute(0, 2, 3, 1)


def _resized_crop_boxes(generator: torch.Generator, size: int, height: int, width: int) -> Tensor:
    """For each image, the first of ten random boxes that lies inside it, else the largest central one."""
    draws = torch.rand(4, size, TRIES, generator=generator, dtype=torch.float64)
    area = height * width * (AREA[0] + (AREA[1] - AREA[0]) * draws[0])
    ratio = torch.exp(math.log(RATIO[0]) + math.log(RATIO[1] / RATIO[0]) * draws[1])
    tall, wide = (area / ratio).sqrt().round(), (area * ratio).sqrt().round()
    fits = (tall > 0) & (tall <= height) & (wide > 0) & (wide <= width)
    top, left = (draws[2] * (height - tall + 1)).floor(), (draws[3] * (width - wide + 1)).floor()
    tries = torch.stack([top, left, tall, wide], dim=-1).long()
    # The largest box of a legal aspect ratio, in the middle.
    high, broad = min(height, round(width / RATIO[0])), min(width, round(height * RATIO[1]))
    last = torch.tensor([(height - high) // 2, (width - broad) // 2, high, broad]).expand(size, 1, 4)
    first_fit = torch.cat([fits, torch.ones(size, 1, dtype=torch.bool)], dim=1).byte().argmax(dim=1)
    return torch.cat([tries, last], dim=1)[torch.arange(size), first_fit]


def _flipped(images: Tensor, flags: Tensor, dim: int) -> Tensor:
    """The images, mirrored along `dim` where `flags` say so."""
    both = torch.cat([images, images.flip(dim)])
    return both.index_select(0, torch.arange(len(images), device=images.device) + len(images) * flags)


def _pad_cropped(images: Tensor, boxes: Tensor, padding: int) -> Tensor:
    """Windows of the stored size at (top, left) of `boxes` in the zero-padded images."""
    batch, height, width, channels = images.shape
    padded = F.pad(images, (0, 0, padding, padding, padding, padding))
    # In an overlapping view, each run of W pixels is a row, so a crop copies H whole rows of memory.
    runs = padded.flatten().unfold(0, width * channels, channels)
    line = padded.shape[2]
    image = torch.arange(batch, device=images.device) * padded.shape[1] * line
    first = image + boxes[:, 0] * line + boxes[:, 1]
    wanted = first[:, None] + torch.arange(height, device=images.device) * line
    return runs.index_select(0, wanted.flatten()).view(batch, height, width, channels)


def _normalised(images: Tensor, data: Data) -> Tensor:
    """(x / 255 − mean) / std ; NHWC in, channels-last NCHW out."""
    batch, height, width, channels = images.shape
    mean, std = (_per_channel(values, channels) for values in (data.mean, data.std))
    slope = [1 / (255 * s) for s in std]
    offset = [-m / s for m, s in zip(mean, std, strict=True)]
    # Constants for a whole line of pixels: an inner loop over C = 3 values would be eight times slower.
    lines = torch.tensor([slope, offset]).to(images.device, non_blocking=True).repeat(1, width)
    pixels = images.reshape(batch * height, width * channels).float()
    return pixels.mul_(lines[0]).add_(lines[1]).view(batch, height, width, channels).permute(0, 3, 1, 2)


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) not in {1, channels}:
        what, got = "data.mean and data.std do not fit the images", f"{len(values)} values"
        allowed = f"1 or {channels}, the channels of the images"
        raise InputError(what, got=got, allowed=allowed, fix="give one value a channel, or one for all")
    return values * (channels // len(values))
