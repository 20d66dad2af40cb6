from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms as tv
import torchvision.transforms.v2.functional as tvf
from PIL import Image

from ffds.data.transforms import EvalTransform, TrainTransform
from ffds.errors import InputError
from ffds.recipes.schema import Data

CIFAR_PACK = Path(__file__).parents[2] / "../shared/data/cifar10-if10/test-00000-of-00001.parquet"
ROUNDING = 0.01 if "AVX" in torch.backends.cpu.get_cpu_capability() else 1.01
"""Of 255: on other processors torchvision resizes in float and rounds once."""
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def data(*augment, **settings):
    return Data(name="digits", augment=augment, **({"mean": MEAN, "std": STD} | settings))


def stored(count=16, height=32, width=32, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, height, width, channels), generator=generator, dtype=torch.uint8)


def real_images(count=24):
    if not CIFAR_PACK.exists():
        pytest.skip("the CIFAR-10 pack is not beside the checkout")
    import pyarrow.parquet as pq

    rows = pq.ParquetFile(CIFAR_PACK).iter_batches(batch_size=count, columns=["img"])
    cells = next(iter(rows)).column("img").to_pylist()
    return [Image.open(io.BytesIO(cell["bytes"])).convert("RGB") for cell in cells]


def as_batch(pictures):
    return torch.from_numpy(np.stack([np.array(picture) for picture in pictures]))


def twin(images, draws, settings):
    """The same, one image after the other, with torchvision."""
    results = []
    for row, image in enumerate(images):
        pixels = image.permute(2, 0, 1)
        height, width = pixels.shape[1:]
        top, left, tall, wide = draws.boxes[row].tolist()
        if "hflip" in settings.augment and draws.hflip[row]:
            pixels = tvf.horizontal_flip(pixels)
        if "vflip" in settings.augment and draws.vflip[row]:
            pixels = tvf.vertical_flip(pixels)
        if "pad-crop" in settings.augment:
            pixels = tvf.crop(tvf.pad(pixels, [settings.padding]), top, left, height, width)
        side = settings.image_size
        if "resized-crop" in settings.augment:
            size = [side, side] if side else [height, width]
            pixels = tvf.resized_crop(pixels, top, left, tall, wide, size, antialias=True)
        elif side:
            pixels = tvf.resize(pixels, [side, side], antialias=True)
        channels = len(pixels)
        mean, std = ([*values] * (channels // len(values)) for values in (settings.mean, settings.std))
        results.append(tvf.normalize(pixels.double() / 255, mean, std).float())
    return torch.stack(results)


STEPS = [
    (),
    ("pad-crop",),
    ("hflip",),
    ("vflip",),
    ("pad-crop", "hflip"),
    ("vflip", "hflip", "pad-crop"),
    ("resized-crop",),
    ("resized-crop", "hflip", "vflip"),
]


@pytest.mark.parametrize("steps", STEPS, ids="+".join)
@pytest.mark.parametrize("side", [None, 24, 50])
@pytest.mark.parametrize("shape", [(32, 32, 3), (20, 31, 1)], ids=str)
def test_equals_the_naive_twin(steps, side, shape):
    images = stored(16, *shape)
    settings = data(*steps, image_size=side, mean=(0.3,), std=(0.2,))
    transform = TrainTransform(settings)
    draws = transform.draw(7, 16, *shape[:2])
    expected = twin(images, draws, settings)
    torch.testing.assert_close(transform(images, 7), expected, rtol=0, atol=ROUNDING / 255 / 0.2)


def test_large_crops_are_antialiased_as_in_torchvision():
    images = stored(6, 256, 256, 3)
    settings = data("resized-crop", "hflip", image_size=64)
    transform = TrainTransform(settings)
    expected = twin(images, transform.draw(1, 6, 256, 256), settings)
    torch.testing.assert_close(transform(images, 1), expected, rtol=0, atol=ROUNDING / 255 / min(STD))


def test_one_mean_and_std_for_each_channel():
    images = stored(8)
    settings = data("pad-crop", padding=2)
    transform = TrainTransform(settings)
    expected = twin(images, transform.draw(3, 8, 32, 32), settings)
    torch.testing.assert_close(transform(images, 3), expected, rtol=0, atol=1e-5)


def test_real_images_are_prepared_as_torchvision_prepares_pictures():
    pictures = real_images()
    settings = data("pad-crop", "hflip")
    transform = TrainTransform(settings)
    draws = transform.draw(5, len(pictures), 32, 32)
    expected = []
    for row, picture in enumerate(pictures):
        top, left, _, _ = draws.boxes[row].tolist()
        flipped = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draws.hflip[row] else picture
        crop = tvf.crop(tvf.pad(flipped, [4]), top, left, 32, 32)
        expected.append(tv.Compose([tv.ToTensor(), tv.Normalize(MEAN, STD)])(crop))
    torch.testing.assert_close(transform(as_batch(pictures), 5), torch.stack(expected), rtol=0, atol=1e-5)


def test_real_images_are_resized_as_pillow_does_but_for_its_rounding():
    pictures = real_images()
    settings = data(image_size=48, eval_resize=56, mean=(0.0,), std=(1.0,))
    expected = tv.Compose([tv.Resize(56), tv.CenterCrop(48), tv.ToTensor()])
    found = EvalTransform(settings)(as_batch(pictures))
    torch.testing.assert_close(
        found, torch.stack([expected(picture) for picture in pictures]), rtol=0, atol=2 / 255
    )


def test_padding_is_black_before_normalisation():
    transform = TrainTransform(data("pad-crop", padding=4))
    white = torch.full((64, 8, 8, 3), 255, dtype=torch.uint8)
    tops = transform.draw(0, 64, 8, 8).boxes[:, 0]
    out = transform(white, 0)
    black = torch.tensor([-m / s for m, s in zip(MEAN, STD, strict=True)])
    assert (tops < 4).any()
    torch.testing.assert_close(out[tops < 4][:, :, 0, 4], black.expand(int((tops < 4).sum()), 3))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("steps", STEPS, ids="+".join)
def test_result_is_float32_and_channels_last(steps, channels):
    settings = data(*steps, image_size=12, mean=(0.5,), std=(0.25,))
    out = TrainTransform(settings)(stored(4, 10, 10, channels), 0)
    assert (out.shape, out.dtype) == ((4, channels, 12, 12), torch.float32)
    assert out.is_contiguous(memory_format=torch.channels_last)
    still = EvalTransform(settings)(stored(4, 10, 10, channels))
    assert still.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("steps", STEPS, ids="+".join)
def test_input_images_are_not_changed(steps):
    images = stored()
    before = images.clone()
    TrainTransform(data(*steps))(images, 0)
    assert torch.equal(images, before)


@pytest.mark.parametrize("steps", STEPS, ids="+".join)
def test_rows_of_a_rank_are_those_rows_of_the_whole_batch(steps):
    images = stored(10)
    transform = TrainTransform(data(*steps, image_size=20))
    whole = transform(images, 11)
    parts = [slice(0, 4), slice(4, 7), slice(7, 10)]
    apart = [transform(images[rows], 11, rows=rows, global_size=10) for rows in parts]
    torch.testing.assert_close(torch.cat(apart), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", [("pad-crop", "hflip"), ("resized-crop", "hflip")], ids="+".join)
def test_global_generators_are_neither_read_nor_moved(steps):
    transform, images = TrainTransform(data(*steps)), stored()
    torch.manual_seed(1)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    first = transform(images, 5)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert random.getstate() == states[2]
    torch.manual_seed(2)
    assert torch.equal(transform(images, 5), first)
    assert not torch.equal(transform(images, 6), first)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("steps", STEPS, ids="+".join)
def test_devices_agree(steps):
    transform, images = TrainTransform(data(*steps, image_size=20)), stored()
    on_gpu = transform(images.cuda(), 5)
    assert on_gpu.is_cuda
    # Where a value is the middle of two, they may round to different sides, once along each axis.
    torch.testing.assert_close(on_gpu.cpu(), transform(images, 5), rtol=0, atol=2.01 / 255 / min(STD))


def test_flips_happen_half_of_the_time_and_independently():
    draws = TrainTransform(data("hflip", "vflip")).draw(0, 10_000, 32, 32)
    # Five standard deviations of a fair coin.
    assert abs(draws.hflip.double().mean() - 0.5) < 0.025
    assert abs(draws.vflip.double().mean() - 0.5) < 0.025
    assert abs((draws.hflip * draws.vflip).double().mean() - 0.25) < 0.025


@pytest.mark.parametrize("padding", [1, 4])
def test_every_offset_of_a_pad_crop_is_equally_likely(padding):
    boxes = TrainTransform(data("pad-crop", padding=padding)).draw(0, 40_000, 32, 32).boxes
    counts = torch.bincount(boxes[:, 0] * 100 + boxes[:, 1])
    counts = counts[counts > 0].double()
    side = 2 * padding + 1
    assert len(counts) == side**2
    expected = 40_000 / side**2
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < side**2 + 5 * (2 * side**2) ** 0.5
    assert boxes[:, :2].max() == 2 * padding


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 80), (20, 100)])
def test_resized_crops_follow_the_law_of_torchvision(height, width):
    ours = TrainTransform(data("resized-crop")).draw(0, 4000, height, width).boxes.double()
    picture = torch.empty(3, height, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        params = [tv.RandomResizedCrop.get_params(picture, (0.08, 1), (3 / 4, 4 / 3)) for _ in range(4000)]
    theirs = torch.tensor(params, dtype=torch.double)
    for features in (lambda b: b, lambda b: b[:, 2:3] * b[:, 3:4], lambda b: b[:, 3:4] / b[:, 2:3]):
        for quantile in (0.1, 0.25, 0.5, 0.75, 0.9):
            mine, other = (features(boxes).quantile(quantile, dim=0) for boxes in (ours, theirs))
            spread = features(theirs).std(dim=0)
            assert ((mine - other).abs() <= 0.15 * spread + 1).all()


def test_resized_crops_reach_all_four_edges():
    boxes = TrainTransform(data("resized-crop")).draw(0, 4000, 12, 16).boxes
    small = boxes[(boxes[:, 2] < 12) & (boxes[:, 3] < 16)]
    top, left, tall, wide = small.unbind(1)
    for reached in (top == 0, left == 0, top + tall == 12, left + wide == 16):
        assert reached.double().mean() > 0.1


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(10, 300, (0, 143, 10, 13)), (300, 10, (143, 0, 13, 10)), (1, 1, (0, 0, 1, 1))],
)
def test_without_a_fitting_box_the_centre_is_taken(height, width, box):
    boxes = TrainTransform(data("resized-crop")).draw(0, 2000, height, width).boxes
    assert box in {tuple(row) for row in boxes.tolist()}
    assert (boxes[:, :2] + boxes[:, 2:] <= torch.tensor([height, width])).all()
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] >= 1).all()


def test_no_step_and_no_size_only_normalises():
    images = stored()
    settings = data(mean=(0.0,), std=(1.0,))
    for out in (TrainTransform(settings)(images, 0), EvalTransform(settings)(images)):
        torch.testing.assert_close(out, images.permute(0, 3, 1, 2) / 255)


@pytest.mark.parametrize("shape", [(64, 64, 3), (40, 61, 3), (61, 40, 1)], ids=str)
@pytest.mark.parametrize(
    ("side", "short"), [(24, 28), (24, 27), (24, 24), (70, 70), (24, 41), (20, None), (64, None)]
)
def test_evaluation_resizes_and_crops_the_centre_as_torchvision(shape, side, short):
    images = stored(3, *shape)
    settings = data(image_size=side, eval_resize=short, mean=(0.0,), std=(1.0,))
    pixels = images.permute(0, 3, 1, 2)
    if short:
        twin_pixels = tvf.center_crop(tvf.resize(pixels, [short], antialias=True), [side, side])
    else:
        twin_pixels = tvf.resize(pixels, [side, side], antialias=True)
    torch.testing.assert_close(
        EvalTransform(settings)(images), twin_pixels / 255, rtol=0, atol=ROUNDING / 255
    )


@pytest.mark.parametrize("make", [EvalTransform, lambda d: lambda x: TrainTransform(d)(x, 0)])
def test_three_means_do_not_fit_greyscale_images(make):
    with pytest.raises(InputError, match=r"data\.mean and data\.std do not fit"):
        make(data())(stored(channels=1))
