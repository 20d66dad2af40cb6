"""Resampling beside torchvision, one image after the other, and beside the exact values."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as tvf

from ffds.data.transforms import by_products, resample, resample_boxes, triangle_weights

SIDE = st.integers(1, 40)
OUT = st.tuples(st.integers(1, 50), st.integers(1, 50))
WAYS = pytest.mark.parametrize("way", [resample_boxes, by_products])
needs_its_kernel = pytest.mark.skipif(
    "AVX" not in torch.backends.cpu.get_cpu_capability(), reason="torchvision resizes in float here"
)


@st.composite
def images_and_boxes(draw):
    height, width, channels = draw(SIDE), draw(SIDE), draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    images = torch.randint(256, (3, height, width, channels), generator=generator, dtype=torch.uint8)
    boxes = []
    for _ in images:
        tall, wide = draw(st.integers(1, height)), draw(st.integers(1, width))
        boxes.append([draw(st.integers(0, height - tall)), draw(st.integers(0, width - wide)), tall, wide])
    return images, torch.tensor(boxes)


def one_by_one(images, boxes, size, dtype=torch.uint8):
    pixels = images.permute(0, 3, 1, 2).to(dtype)
    crops = [
        tvf.resized_crop(image, *box, list(size), antialias=True)
        for image, box in zip(pixels, boxes.tolist(), strict=True)
    ]
    return torch.stack(crops).permute(0, 2, 3, 1)


@needs_its_kernel
@settings(deadline=None, max_examples=60)
@given(images_and_boxes(), OUT)
def test_boxes_are_those_of_torchvision(drawn, size):
    images, boxes = drawn
    assert torch.equal(resample_boxes(images, boxes, size), one_by_one(images, boxes, size))


@WAYS
@settings(deadline=None, max_examples=60)
@given(drawn=images_and_boxes(), size=OUT)
def test_a_pixel_is_the_exact_value_but_for_two_roundings(way, drawn, size):
    images, boxes = drawn
    # Of float images one pixel wide, torch 2.15 repeats the first row instead of going from row to row.
    assume(min(size) > 1 and boxes[:, 2:].min() > 1)
    exact = one_by_one(images, boxes, size, torch.float64)
    torch.testing.assert_close(way(images, boxes, size).double(), exact, rtol=0, atol=1.1)


@settings(deadline=None, max_examples=60)
@given(images_and_boxes(), OUT)
def test_all_of_an_image_is_one_of_its_boxes(drawn, size):
    images, _ = drawn
    height, width = images.shape[1:3]
    whole = torch.tensor([[0, 0, height, width]])
    assert torch.equal(resample(images, size), resample_boxes(images, whole.expand(len(images), 4), size))
    assert torch.equal(
        by_products(images, whole, size), by_products(images, whole.expand(len(images), 4), size)
    )


def test_products_and_kernel_part_only_at_the_middle_of_two_values():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (8, 251, 207, 3), generator=generator, dtype=torch.uint8)
    boxes = torch.tensor([[k, 2 * k, 251 - 3 * k, 199 - 4 * k] for k in range(8)])
    apart = by_products(images, boxes, (224, 224)).int() - resample_boxes(images, boxes, (224, 224)).int()
    assert apart.abs().max() <= 2
    assert (apart != 0).float().mean() < 0.02


@WAYS
def test_each_image_has_its_own_box(way):
    images = torch.arange(2 * 6 * 6).view(2, 6, 6, 1).to(torch.uint8)
    cropped = way(images, torch.tensor([[0, 1, 3, 4], [3, 2, 3, 4]]), (3, 4))
    assert torch.equal(cropped[0], images[0, 0:3, 1:5])
    assert torch.equal(cropped[1], images[1, 3:6, 2:6])


@WAYS
@pytest.mark.parametrize("value", [0, 1, 128, 254, 255])
@pytest.mark.parametrize("out", [224, 8])
def test_a_constant_image_stays_constant(way, out, value):
    images = torch.full((1, 64, 64, 3), value, dtype=torch.uint8)
    found = way(images, torch.tensor([[3, 5, 50, 41]]), (out, out))
    assert found.dtype == torch.uint8
    assert torch.equal(found, torch.full((1, out, out, 3), value, dtype=torch.uint8))


# The weights


@settings(deadline=None)
@given(SIDE, st.data(), st.integers(1, 50))
def test_weights_are_averages_over_the_box(side, data, out_size):
    length = data.draw(st.integers(1, side))
    start = data.draw(st.integers(0, side - length))
    weights = triangle_weights(torch.tensor([start]), torch.tensor([length]), side, out_size)[0]
    torch.testing.assert_close(weights.sum(1), torch.ones(out_size))
    assert (weights >= 0).all()
    assert (weights[:, :start] == 0).all()
    assert (weights[:, start + length :] == 0).all()


@settings(deadline=None)
@given(SIDE, st.integers(1, 50))
def test_weights_are_those_of_interpolate(side, out_size):
    weights = triangle_weights(torch.tensor([0]), torch.tensor([side]), side, out_size)[0]
    units = torch.eye(side, dtype=torch.float64)[None, :, None, :]
    each = F.interpolate(units, (1, out_size), mode="bilinear", antialias=True)[0, :, 0]
    torch.testing.assert_close(weights, each.T.float(), rtol=0, atol=1e-5)


def test_the_same_size_changes_nothing():
    weights = triangle_weights(torch.tensor([2]), torch.tensor([5]), 9, 5)
    assert torch.equal(weights[0], torch.eye(9)[2:7])
