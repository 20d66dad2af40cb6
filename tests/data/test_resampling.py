from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ffds.data.resampling import resample, triangle_weights


@st.composite
def box_in_side(draw):
    side = draw(st.integers(1, 40))
    length = draw(st.integers(1, side))
    return side, draw(st.integers(0, side - length)), length


@settings(deadline=None, max_examples=60)
@given(box_in_side(), box_in_side(), st.integers(1, 50), st.integers(1, 50), st.integers(0, 2**32))
def test_a_box_is_interpolated_as_torch_does_it(rows, columns, out_height, out_width, seed):
    (height, top, tall), (width, left, wide) = rows, columns
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (2, height, width, 3), generator=generator, dtype=torch.uint8)
    resampled = resample(
        images,
        triangle_weights(torch.tensor([top]), torch.tensor([tall]), height, out_height),
        triangle_weights(torch.tensor([left]), torch.tensor([wide]), width, out_width),
    )
    crop = images[:, top : top + tall, left : left + wide].permute(0, 3, 1, 2).double()
    twin = F.interpolate(crop, (out_height, out_width), mode="bilinear", antialias=True)
    torch.testing.assert_close(resampled.permute(0, 3, 1, 2) / 255, (twin / 255).float(), rtol=0, atol=1e-5)


@given(box_in_side(), st.integers(1, 50))
@settings(deadline=None)
def test_weights_are_averages_over_the_box(box, out_size):
    side, start, length = box
    weights = triangle_weights(torch.tensor([start]), torch.tensor([length]), side, out_size)[0]
    torch.testing.assert_close(weights.sum(1), torch.ones(out_size))
    assert (weights >= 0).all()
    assert (weights[:, :start] == 0).all()
    assert (weights[:, start + length :] == 0).all()


def test_the_same_size_changes_nothing():
    weights = triangle_weights(torch.tensor([2]), torch.tensor([5]), 9, 5)
    assert torch.equal(weights[0], torch.eye(9)[2:7])


def test_each_image_has_its_own_box():
    images = torch.arange(2 * 6 * 6).view(2, 6, 6, 1).to(torch.uint8)
    rows = triangle_weights(torch.tensor([0, 3]), torch.tensor([3, 3]), 6, 3)
    columns = triangle_weights(torch.tensor([1, 2]), torch.tensor([4, 4]), 6, 4)
    cropped = resample(images, rows, columns)
    assert torch.equal(cropped[0], images[0, 0:3, 1:5].float())
    assert torch.equal(cropped[1], images[1, 3:6, 2:6].float())


def test_weights_for_one_serve_a_whole_batch():
    images = torch.randint(256, (5, 8, 7, 3), dtype=torch.uint8)
    one = triangle_weights(torch.tensor([0]), torch.tensor([8]), 8, 3)
    other = triangle_weights(torch.tensor([0]), torch.tensor([7]), 7, 9)
    together = resample(images, one, other)
    apart = torch.cat([resample(image[None], one, other) for image in images])
    assert together.shape == (5, 3, 9, 3)
    assert together.is_contiguous()
    torch.testing.assert_close(together, apart)


@pytest.mark.parametrize("out", [224, 8])
def test_a_constant_image_stays_constant(out):
    weights = triangle_weights(torch.tensor([3]), torch.tensor([50]), 64, out)
    resampled = resample(torch.full((1, 64, 64, 1), 255, dtype=torch.uint8), weights, weights)
    torch.testing.assert_close(resampled, torch.full((1, out, out, 1), 255.0))
