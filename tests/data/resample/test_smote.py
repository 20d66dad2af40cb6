"""SMOTE in pixel space: what it makes up, what it refuses, and what an epoch draws of it."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ffds.data.dataset import Split
from ffds.data.resample.draws import Draws
from ffds.data.resample.smote import balanced
from ffds.data.streaming import StreamedImages
from ffds.errors import InputError
from ffds.methods.base import Synthetic
from ffds.training.checkpoint import Checkpoints
from tests.training import tiny

COUNTS = [24, 9, 7]
NAMES = ("zero", "one", "two")


def of_pairs(counts=COUNTS):
    """Images of each class around two corners of colour space, so far apart that no neighbours cross."""
    generator = np.random.default_rng(0)
    labels = generator.permutation(np.repeat(np.arange(len(counts)), counts))
    images = generator.integers(0, 60, (len(labels), 3, 2, 1), dtype=np.uint8)
    images[::2] += 180
    return Split(images, labels)


def test_synthetic_images_lie_between_an_image_and_a_near_one_of_its_class():
    split = of_pairs([24, 12, 11])
    made = balanced(split, Synthetic(2, seed=0), NAMES)
    assert np.bincount(made.labels).tolist() == [24, 24, 24]
    assert made.images.dtype == np.uint8
    np.testing.assert_array_equal(made.images[: len(split)], split.images)
    np.testing.assert_array_equal(made.labels[: len(split)], split.labels)
    for image, label in zip(made.images[47:], made.labels[47:], strict=True):
        own = split.images[split.labels == label].reshape(-1, 6).astype(float)
        distances = ((own[:, None] - own[None]) ** 2).sum(-1)
        near = [(k, other) for k, row in enumerate(distances) for other in row.argsort()[1:3]]
        assert any(is_between(image.ravel(), own[k], own[other]) for k, other in near)


def is_between(image, one, other):
    """Whether an image is one + u (other - one), rounded, for a u in [0, 1]."""
    direction = other - one
    u = np.clip((image - one) @ direction / max(direction @ direction, 1), 0, 1)
    return np.abs(one + u * direction - image).max() <= 1


def test_the_seed_decides_the_synthetic_images():
    one, again, other = (balanced(of_pairs(), Synthetic(3, seed), NAMES).images for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


@pytest.mark.parametrize(
    ("counts", "fix"), [([24, 9, 5], "method.neighbors=4"), ([24, 9, 1], "method=over-sampling")]
)
def test_a_class_with_too_few_images_is_named_with_the_way_out(counts, fix):
    with pytest.raises(InputError, match=rf"(?s)class two has too few.* {counts[-1]} image.*{fix}"):
        balanced(of_pairs(counts), Synthetic(5, 0), NAMES)


def test_equal_classes_are_left_as_they_are():
    split = of_pairs([4, 4, 4])
    np.testing.assert_array_equal(balanced(split, Synthetic(5, 0), NAMES).images, split.images)


def test_images_in_their_files_are_refused():
    split = Split(StreamedImages(None, np.arange(3), (2, 2, 1), 0), np.arange(3))
    with pytest.raises(InputError, match=r"(?s)in memory.*stay in their files.*data\.in_memory=true"):
        balanced(split, Synthetic(1, 0), NAMES)


def test_images_beyond_the_memory_are_refused(monkeypatch):
    monkeypatch.setattr("ffds.data.resample.smote.machine_memory", lambda: 3 * 24 * 6 - 1)
    with pytest.raises(InputError, match="72 images"):
        balanced(of_pairs(), Synthetic(1, 0), NAMES)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "imblearn.over_sampling", None)
    with pytest.raises(InputError, match=r"pip install 'ffds\[resample\]'"):
        balanced(of_pairs(), Synthetic(1, 0), NAMES)


def test_fewer_draws_than_images_go_through_all_of_them_before_any_comes_again():
    draws = Draws(np.arange(10) % 3, 0, total=4)
    drawn = torch.cat([draws.epoch(epoch) for epoch in range(5)])
    assert sorted(drawn[:10].tolist()) == sorted(drawn[10:].tolist()) == list(range(10))


def test_a_run_counts_its_own_images_only(tmp_path: Path):
    run = tiny.train(tiny.recipe(method="smote"), tmp_path)
    assert [row["train"] for row in run.classes] == tiny.COUNTS
    assert Checkpoints(run.checkpoints).latest().state["reached"]["images"] == tiny.EPOCHS * sum(tiny.COUNTS)
