"""The distribution of drawn operations is that of torchvision's transforms, and depends on the seed alone."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torchvision.transforms import v2

from ffds.data.augment.operations import NAMES, apply
from ffds.data.augment.policies import draw_boxes, draw_holes, draw_operations
from ffds.recipes.schema import Data
from tests.data.augment.test_operations import TORCHVISION

SIZE, HEIGHT, WIDTH = 6000, 20, 30
POLICIES = {
    "randaugment": v2.RandAugment(2, 9),
    "trivialaugment": v2.TrivialAugmentWide(),
    "autoaugment-cifar": v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),
    "autoaugment-imagenet": v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET),
}
OURS = {theirs: ours for ours, theirs in TORCHVISION.items()}
NEUTRAL = ("identity", "autocontrast", "equalize", "invert")


def drawn(name, seed=0, size=SIZE, **settings):
    data = Data(name="digits", augment=(name,), **settings)
    return draw_operations(data, seed, size, HEIGHT, WIDTH)


def named(steps):
    """The drawn operations of one image, with magnitudes, without those that do nothing."""
    pairs = [(NAMES[int(operation)], round(magnitude, 4)) for operation, magnitude in steps.tolist()]
    return tuple((name, 0.0 if name in NEUTRAL else by) for name, by in pairs if name != "identity")


def of_torchvision(transform, size, monkeypatch):
    """What torchvision draws for `size` images, one after the other."""
    seen = []

    def note(image, name, magnitude, **_):
        if name != "Identity":
            ours = OURS.get(name, name.lower())
            magnitude = int(magnitude) if ours == "posterize" else magnitude
            seen[-1].append((ours, round(float(magnitude), 4) + 0.0))
        return image

    monkeypatch.setattr(transform, "_apply_image_or_video_transform", note)
    image = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(size):
            seen.append([])
            transform(image)
    return [tuple(steps) for steps in seen]


@pytest.mark.parametrize("name", POLICIES)
def test_operations_come_with_the_probabilities_of_torchvision(name, monkeypatch):
    size = SIZE // 2
    ours = [named(steps) for steps in drawn(name).transpose(0, 1)]
    theirs = of_torchvision(POLICIES[name], size, monkeypatch)
    for what in (lambda steps: steps, lambda steps: [len(steps)], lambda steps: [one[0] for one in steps]):
        mine, other = (Counter(part for steps in all_ for part in what(steps)) for all_ in (ours, theirs))
        for part in mine | other:
            p, q = mine[part] / SIZE, other[part] / size
            spread = (max(p, q, 1e-3) * (1 / SIZE + 1 / size)) ** 0.5
            assert abs(p - q) < 5 * spread, (part, p, q)
    rare = [part for part, count in Counter(one for steps in theirs for one in steps).items() if count > 20]
    assert set(rare) <= {one for steps in ours for one in steps}


@pytest.mark.parametrize("bins", [0, 30])
def test_settings_of_randaugment(bins, monkeypatch):
    ours = drawn("randaugment", size=500, randaugment_ops=3, randaugment_magnitude=bins)
    assert ours.shape == (3, 500, 2)
    theirs = of_torchvision(v2.RandAugment(3, bins), 500, monkeypatch)
    parts = {one for steps in theirs for one in steps}
    assert {one for steps in ours.transpose(0, 1) for one in named(steps)} == parts


def test_color_jitter_draws_four_factors_in_random_order():
    operations, magnitudes = drawn("color-jitter", color_jitter=(0.4, 2.0, 0.2, 0.1)).unbind(-1)
    assert operations.shape == (4, SIZE)
    orders = Counter(map(tuple, operations.T.tolist()))
    assert len(orders) == 24
    assert max(orders.values()) < 2 * min(orders.values())
    bounds = {"brightness": (-0.4, 0.4), "contrast": (-1.0, 2.0), "color": (-0.2, 0.2), "hue": (-0.1, 0.1)}
    for name, (low, high) in bounds.items():
        values = magnitudes[operations == NAMES.index(name)]
        assert len(values) == SIZE
        expected = low + (high - low) * torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64)
        quantiles = values.quantile(torch.tensor([0, 0.25, 0.5, 0.75, 1], dtype=torch.float64))
        assert ((quantiles - expected).abs() < 0.04 * (high - low)).all()
    off = drawn("color-jitter", color_jitter=(0.0, 0.0, 0.3, 0.0))
    assert sorted(off[..., 0].unique().tolist()) == [0, NAMES.index("color")]


def test_jitter_and_grayscale_change_as_many_images_as_the_recipe_says():
    some = drawn("color-jitter", color_jitter_probability=0.8)
    jittered = (some[..., 0] > 0).all(dim=0)
    assert torch.equal(some, drawn("color-jitter") * jittered[:, None])
    gray = drawn("grayscale")[0]
    assert {tuple(step) for step in gray.tolist()} == {(NAMES.index("color"), -1.0), (0.0, 0.0)}
    for share, expected in ((jittered, 0.8), (gray[:, 0] > 0, 0.2)):
        assert abs(share.double().mean() - expected) < 0.03
    red = torch.tensor([200, 50, 10], dtype=torch.uint8).view(1, 3, 1, 1).expand(SIZE, 3, 1, 1)
    changed = apply(red, gray[None])[:, :, 0, 0]
    assert torch.equal(changed.amin(1) == changed.amax(1), gray[:, 0] > 0)


def test_holes_have_their_middle_at_any_pixel():
    holes = draw_holes(8, 0, SIZE, HEIGHT, WIDTH)
    top, left, tall, wide = holes.T
    assert (tall.min(), tall.max(), wide.min(), wide.max()) == (4, 8, 4, 8)
    assert (top + tall).max() == HEIGHT
    assert (left + wide).max() == WIDTH
    inside = (tall == 8) & (wide == 8)
    expected = (HEIGHT - 7) * (WIDTH - 7) / (HEIGHT * WIDTH)
    assert abs(inside.double().mean() - expected) < 0.03


def test_erased_boxes_have_the_distribution_of_torchvision():
    ours = draw_boxes(0.25, 0, SIZE, HEIGHT, WIDTH).double()
    erased = ours[:, 2] > 0
    assert abs(erased.double().mean() - 0.25) < 0.03
    assert (ours[~erased] == 0).all()
    theirs, transform = [], v2.RandomErasing(p=1.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(2000):
            made = transform.make_params([torch.zeros(3, HEIGHT, WIDTH)])
            theirs.append([made["i"], made["j"], made["h"], made["w"]])
    every, theirs = draw_boxes(1.0, 0, SIZE, HEIGHT, WIDTH).double(), torch.tensor(theirs).double()
    for features in (lambda b: b, lambda b: b[:, 2:3] * b[:, 3:4], lambda b: b[:, 3:4] / b[:, 2:3]):
        for quantile in (0.1, 0.25, 0.5, 0.75, 0.9):
            mine, other = (features(boxes).quantile(quantile, dim=0) for boxes in (every, theirs))
            assert ((mine - other).abs() <= 0.15 * features(theirs).std(dim=0) + 1).all()
    assert (every[:, :2] + every[:, 2:] <= torch.tensor([HEIGHT, WIDTH])).all()


@pytest.mark.parametrize("name", [*POLICIES, "color-jitter", "grayscale"])
def test_draws_depend_on_the_seed_and_on_no_other_step(name):
    assert torch.equal(drawn(name, 3, 50), drawn(name, 3, 50))
    assert not torch.equal(drawn(name, 3, 50), drawn(name, 4, 50))
    if name in POLICIES:
        both = Data(name="digits", augment=("color-jitter", name))
        assert torch.equal(draw_operations(both, 3, 50, HEIGHT, WIDTH)[:-4], drawn(name, 3, 50))


def test_a_single_pixel_is_not_erased():
    assert (draw_boxes(1.0, 0, 10, 1, 1)[:, 2:].prod(dim=1) == 0).all()
