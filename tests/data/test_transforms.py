"""Whole batches beside torchvision, one image after the other; their distributions; resampling."""

from __future__ import annotations

import pytest
import torch
import torchvision.transforms as tv
import torchvision.transforms.v2.functional as tvf
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ffds.data.augment.operations import apply, cut_out, erase
from ffds.data.augment.policies import draw_boxes, draw_holes, draw_operations
from ffds.data.transforms import EvalTransform, TrainTransform, by_products, resample, resample_boxes
from ffds.errors import InputError
from ffds.recipes.schema import Data

HAS_KERNEL = "AVX" in torch.backends.cpu.get_cpu_capability()
ROUNDING = 0.01 if HAS_KERNEL else 1.01
"""Of 255: on other processors torchvision resizes in float and rounds once."""
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
STEPS = [(), ("vflip", "hflip", "pad-crop"), ("resized-crop",), ("resized-crop", "hflip", "vflip")]
RECOLOURED = ("resized-crop", "color-jitter", "trivialaugment", "grayscale", "cutout")
STRONG = [("hflip", "randaugment", "random-erasing"), RECOLOURED]
both_kernels = pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
each_kind_of_steps = pytest.mark.parametrize("steps", STEPS, ids="+".join)


def data(*augment, **settings):
    return Data(name="digits", augment=augment, **({"mean": MEAN, "std": STD} | settings))


def stored(count=16, height=32, width=32, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, height, width, channels), generator=generator, dtype=torch.uint8)


def twin(images, draws, settings):
    """The same, one image after the other, with torchvision."""
    results, side = [], settings.image_size
    resized = {"interpolation": tv.InterpolationMode(settings.interpolation), "antialias": True}
    for image, (hflip, vflip, *box) in zip(images, draws.tolist(), strict=True):
        pixels = image.permute(2, 0, 1)
        size = [side, side] if side else list(pixels.shape[1:])
        if "hflip" in settings.augment and hflip:
            pixels = tvf.horizontal_flip(pixels)
        if "vflip" in settings.augment and vflip:
            pixels = tvf.vertical_flip(pixels)
        if "pad-crop" in settings.augment:
            pixels = tvf.crop(tvf.pad(pixels, [settings.padding]), *box)
        if "resized-crop" in settings.augment:
            pixels = tvf.resized_crop(pixels, *box, size, **resized)
        else:
            pixels = tvf.resize(pixels, size, **resized)
        results.append(tvf.normalize(pixels.double() / 255, settings.mean, settings.std).float())
    return torch.stack(results)


@each_kind_of_steps
@pytest.mark.parametrize("side", [None, 8, 50])
@pytest.mark.parametrize(("shape", "kernel"), [((32, 32, 3), "bilinear"), ((20, 31, 1), "bicubic")], ids=str)
def test_equals_the_naive_twin_and_is_channels_last(steps, side, shape, kernel):
    images = stored(16, *shape)
    before = images.clone()
    constants = {} if shape[2] == 3 else {"mean": (0.3,), "std": (0.2,)}
    settings = data(*steps, image_size=side, interpolation=kernel, **constants)
    transform = TrainTransform(settings)
    out = transform(images, 7)
    expected = twin(images, transform.draw(7, 16, *shape[:2]), settings)
    torch.testing.assert_close(out, expected, rtol=0, atol=ROUNDING / 255 / min(STD))
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)


def test_policies_and_jitter_change_pixels_after_the_crop_and_erasing_comes_last():
    constants = {"image_size": 20, "mean": (0.5,), "std": (0.1,), "erasing_probability": 0.5}
    changes = ("color-jitter", "grayscale", "cutout", "random-erasing", "trivialaugment")
    plain, whole = (data("resized-crop", "hflip", *more, **constants) for more in ((), changes))
    images, seed = stored(32), 5
    cropped = ((TrainTransform(plain)(images, seed) * 0.1 + 0.5) * 255).round().to(torch.uint8)
    changed = apply(cropped, draw_operations(whole, seed, 32, 20, 20))
    changed = cut_out(changed, draw_holes(16, seed, 32, 20, 20))
    expected = (changed.float() / 255 - 0.5) / 0.1
    boxes = draw_boxes(0.5, seed, 32, 20, 20)
    assert 0 < (boxes[:, 2] > 0).sum() < 32
    erase(expected, boxes)
    out = TrainTransform(whole)(images, seed)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("steps", [*STEPS, *STRONG], ids="+".join)
def test_rows_of_a_rank_are_those_rows_of_the_whole_batch(steps):
    images = stored(10)
    transform = TrainTransform(data(*steps, image_size=20))
    whole = transform(images, 11)
    parts = [slice(0, 4), slice(4, 7), slice(7, 10)]
    apart = [transform(images[rows], 11, rows=rows, global_size=10) for rows in parts]
    torch.testing.assert_close(torch.cat(apart), whole, rtol=0, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@each_kind_of_steps
def test_devices_agree(steps):
    transform, images = TrainTransform(data(*steps, image_size=20)), stored()
    on_gpu = transform(images.cuda(), 5)
    assert on_gpu.is_cuda
    # Where a value is the middle of two, they may round to different sides, once along each axis.
    torch.testing.assert_close(on_gpu.cpu(), transform(images, 5), rtol=0, atol=2.01 / 255 / min(STD))


def test_flips_happen_half_of_the_time_and_independently():
    hflip, vflip = TrainTransform(data("hflip", "vflip")).draw(0, 10_000, 32, 32)[:, :2].double().T
    for mean, expected in ((hflip.mean(), 0.5), (vflip.mean(), 0.5), ((hflip * vflip).mean(), 0.25)):
        assert abs(mean - expected) < 0.025  # five standard deviations of a fair coin


def test_every_offset_of_a_pad_crop_is_equally_likely():
    boxes = TrainTransform(data("pad-crop", padding=2)).draw(0, 40_000, 32, 32)[:, 2:]
    counts = torch.bincount(5 * boxes[:, 0] + boxes[:, 1]).double()
    assert len(counts) == 25
    chi_square = ((counts - 1600) ** 2 / 1600).sum()
    assert chi_square < 25 + 5 * (2 * 25) ** 0.5


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 80), (20, 100)])
def test_resized_crops_have_the_distribution_of_torchvision(height, width):
    ours = TrainTransform(data("resized-crop")).draw(0, 4000, height, width)[:, 2:].double()
    picture = torch.empty(3, height, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        params = [tv.RandomResizedCrop.get_params(picture, (0.08, 1), (3 / 4, 4 / 3)) for _ in range(4000)]
    theirs = torch.tensor(params, dtype=torch.double)
    for features in (lambda b: b, lambda b: b[:, 2:3] * b[:, 3:4], lambda b: b[:, 3:4] / b[:, 2:3]):
        for quantile in (0.1, 0.25, 0.5, 0.75, 0.9):
            mine, other = (features(boxes).quantile(quantile, dim=0) for boxes in (ours, theirs))
            assert ((mine - other).abs() <= 0.15 * features(theirs).std(dim=0) + 1).all()
    small = ours[(ours[:, 2] < height) & (ours[:, 3] < width)]
    for start, length, size in zip(small.T[:2], small.T[2:], (height, width), strict=True):
        assert (start == 0).any(), "the first pixel is never reached"
        assert (start + length == size).any(), "the last pixel is never reached"


LONG = [(10, 300, (0, 143, 10, 13)), (300, 10, (143, 0, 13, 10)), (1, 1, (0, 0, 1, 1))]


@pytest.mark.parametrize(("height", "width", "box"), LONG)
def test_without_a_fitting_box_the_centre_is_taken(height, width, box):
    boxes = TrainTransform(data("resized-crop")).draw(0, 2000, height, width)[:, 2:]
    assert box in {tuple(row) for row in boxes.tolist()}
    assert (boxes[:, :2] + boxes[:, 2:] <= torch.tensor([height, width])).all()
    assert (boxes >= torch.tensor([0, 0, 1, 1])).all()


SIZES = [(24, 28), (24, 27), (24, 24), (24, 41), (20, None), (64, None), (None, None)]


@pytest.mark.parametrize("shape", [(64, 64, 3), (61, 40, 1)], ids=str)
@pytest.mark.parametrize(("side", "short"), SIZES)
@both_kernels
def test_evaluation_resizes_and_crops_the_centre_as_torchvision(shape, side, short, interpolation):
    images = stored(3, *shape)
    pixels = images.permute(0, 3, 1, 2)
    if side:
        kernel = tv.InterpolationMode(interpolation)
        pixels = tvf.resize(pixels, [short] if short else [side, side], kernel, antialias=True)
        pixels = tvf.center_crop(pixels, [side, side])
    settings = {"image_size": side, "eval_resize": short, "interpolation": interpolation}
    out = EvalTransform(data(**settings, mean=(0.0,), std=(1.0,)))(images)
    torch.testing.assert_close(out, pixels / 255, rtol=0, atol=ROUNDING / 255)
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("make", [EvalTransform, lambda d: lambda x: TrainTransform(d)(x, 0)])
def test_three_means_do_not_fit_greyscale_images(make):
    with pytest.raises(InputError, match=r"data\.mean and data\.std do not fit"):
        make(data())(stored(channels=1))


SIDE = st.integers(1, 40)
OUT = st.tuples(st.integers(1, 50), st.integers(1, 50))
both_ways = pytest.mark.parametrize("way", [resample_boxes, by_products])
many = hypothesis_settings(deadline=None, max_examples=60)


@st.composite
def images_and_boxes(draw):
    height, width, channels = draw(SIDE), draw(SIDE), draw(st.integers(1, 4))
    images = stored(3, height, width, channels, seed=draw(st.integers(0, 2**32)))
    if draw(st.booleans()):  # beside edges of black and white, bicubic pixels have to be kept in range
        images = torch.where(images < 128, 0, 255).to(torch.uint8)
    boxes = []
    for _ in images:
        tall, wide = draw(st.integers(1, height)), draw(st.integers(1, width))
        boxes.append([draw(st.integers(0, height - tall)), draw(st.integers(0, width - wide)), tall, wide])
    return images, torch.tensor(boxes)


def one_by_one(images, boxes, size, interpolation="bilinear", dtype=torch.uint8):
    kernel = tv.InterpolationMode(interpolation)
    pairs = zip(images.permute(0, 3, 1, 2).to(dtype), boxes.tolist(), strict=True)
    crops = [tvf.resized_crop(image, *box, list(size), kernel, antialias=True) for image, box in pairs]
    return torch.stack(crops).permute(0, 2, 3, 1)


@pytest.mark.skipif(not HAS_KERNEL, reason="torchvision resizes in float here")
@both_kernels
@many
@given(drawn=images_and_boxes(), size=OUT)
def test_boxes_are_those_of_torchvision(drawn, size, interpolation):
    images, boxes = drawn
    expected = one_by_one(images, boxes, size, interpolation)
    assert torch.equal(resample_boxes(images, boxes, size, interpolation), expected)
    products = by_products(images, boxes, size, interpolation)
    torch.testing.assert_close(products.int(), expected.int(), rtol=0, atol=2)


@both_ways
@many
@given(drawn=images_and_boxes(), size=OUT)
def test_a_pixel_is_the_exact_value_but_for_two_roundings(way, drawn, size):
    images, boxes = drawn
    # Of float images one pixel wide, torch 2.15 repeats the first row instead of going from row to row.
    assume(min(size) > 1 and boxes[:, 2:].min() > 1)
    exact = one_by_one(images, boxes, size, dtype=torch.float64)
    torch.testing.assert_close(way(images, boxes, size).double(), exact, rtol=0, atol=1.1)


@both_kernels
@many
@given(drawn=images_and_boxes(), size=OUT)
def test_a_whole_image_is_one_of_its_boxes(drawn, size, interpolation):
    images, _ = drawn
    whole = torch.tensor([[0, 0, *images.shape[1:3]]])
    each = whole.expand(len(images), 4)
    how = (size, interpolation)
    assert torch.equal(resample(images, *how), resample_boxes(images, each, *how))
    assert torch.equal(by_products(images, whole, *how), by_products(images, each, *how))


@both_ways
@both_kernels
@pytest.mark.parametrize(("out", "value"), [(224, 255), (8, 128), (8, 1)])
def test_a_constant_image_stays_constant(way, out, value, interpolation):
    images = torch.full((1, 64, 64, 3), value, dtype=torch.uint8)
    resized = way(images, torch.tensor([[3, 5, 50, 41]]), (out, out), interpolation)
    assert torch.equal(resized, torch.full((1, out, out, 3), value, dtype=torch.uint8))
