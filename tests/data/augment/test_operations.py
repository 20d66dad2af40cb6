"""Each operation on groups of images beside torchvision's on one image, and erasing."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tvf

from ffds.data.augment.operations import NAMES, OPERATIONS, apply, cut_out, erase

MAGNITUDES = {"posterize": (4, 6, 8), "solarize": (0.0, 0.3, 1.0), "hue": (-0.1, 0.0, 0.5)}
MAGNITUDES |= {"translate-x": (-9.7, 0.0, 3.2), "translate-y": (-9.7, 0.0, 3.2), "rotate": (-30.0, 7.0)}
TORCHVISION = {"shear-x": "ShearX", "shear-y": "ShearY", "translate-x": "TranslateX"}
TORCHVISION |= {"translate-y": "TranslateY", "autocontrast": "AutoContrast"}


def pictures(count=6, channels=3, height=20, width=17):
    """Smooth pictures, so that a change by an operation is not lost in noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, channels, 5, 5, generator=generator)
    return (255 * torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")).to(torch.uint8)


def of_torchvision(image, name, magnitude):
    if name == "hue":
        return tvf.adjust_hue(image, magnitude)
    title = TORCHVISION.get(name, name.capitalize())
    policy = v2.AutoAugment()
    return policy._apply_image_or_video_transform(image, title, magnitude, policy.interpolation, policy._fill)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_an_operation_is_that_of_torchvision_on_each_image(name, channels):
    for magnitude in MAGNITUDES.get(name, (-0.3, 0.0, 0.45)):
        images = pictures(channels=channels)
        before = images.clone()
        drawn = torch.tensor([[[NAMES.index(name), magnitude]] * len(images)], dtype=torch.float64)
        changed = apply(images, drawn)
        expected = torch.stack([of_torchvision(image, name, magnitude) for image in images])
        assert torch.equal(changed, expected)
        assert torch.equal(images, before)
        none = name == "identity" or (magnitude == 0 and name not in MAGNITUDES) or channels == 1
        assert none or not torch.equal(changed, images) or magnitude in (0.0, 8, 1.0) or name == "equalize"


def test_images_of_several_operations_keep_their_places():
    images, generator = pictures(60), torch.Generator().manual_seed(1)
    operations = torch.randint(len(NAMES), (3, 60), generator=generator).double()
    drawn = torch.stack([operations, torch.full_like(operations, 0.3)], dim=-1)
    drawn[drawn[..., 0] == NAMES.index("posterize"), 1] = 5
    expected = []
    for row, image in enumerate(images):
        for operation, magnitude in drawn[:, row].tolist():
            image = OPERATIONS[NAMES[int(operation)]](image, magnitude)  # noqa: PLW2901
        expected.append(image)
    assert torch.equal(apply(images, drawn), torch.stack(expected))
    assert torch.equal(apply(images, drawn[:0]), images)


def test_a_hole_is_black_and_all_around_it_stays():
    images = torch.full((2, 3, 6, 5), 9, dtype=torch.uint8)
    expected = images.clone()
    expected[0, :, 1:4, 2:4] = 0
    assert torch.equal(cut_out(images, torch.tensor([[1, 2, 3, 2], [0, 0, 0, 0]])), expected)
    assert (images == 9).all()


def test_only_the_boxes_are_erased():
    images = torch.ones(3, 2, 6, 5).contiguous(memory_format=torch.channels_last)
    erase(images, torch.tensor([[1, 2, 3, 2], [0, 0, 0, 0], [5, 4, 1, 1]]))
    assert images.sum(dim=(1, 2, 3)).tolist() == [60 - 12, 60, 60 - 2]
    assert images[0, :, 1:4, 2:4].abs().sum() == 0
    assert images[2, :, 5, 4].abs().sum() == 0
