"""Mixup and CutMix beside torchvision's; what does not change; any number of ranks; interruptions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2

from ffds.data.augment.mixing import Mixing, cutmix, mixed_labels, mixup
from ffds.data.dataset import Split
from ffds.data.loader import TrainBatches
from ffds.losses import FocalLoss
from ffds.methods.base import Mix
from ffds.recipes.schema import Data

CLASSES = 7
MIXES = {"mixup": {"mixup": 0.8}, "cutmix": {"cutmix": 1.0}, "both": {"mixup": 0.2, "cutmix": 1.0}}
SETTINGS = {**MIXES, "none": {}}
each_mix = pytest.mark.parametrize("mix", MIXES)


def data(mix="both", **others):
    return Data(name="digits", augment=("pad-crop", "hflip"), padding=1, **SETTINGS[mix], **others)


def batch(count=8, height=12, width=9, channels=3):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, height, width, channels, generator=generator).permute(0, 3, 1, 2)
    return images, torch.randint(CLASSES, (count,), generator=generator)


def with_previous(images):
    """Each with the one before it, the first with the last, as a rank that is alone gets them."""
    return images, images.roll(1, 0)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.77, 1.0])
def test_equals_torchvision_with_the_same_share(share):
    images, labels = batch()
    theirs = v2.MixUp(num_classes=CLASSES)
    inputs = {"labels": labels, "batch_size": len(images)}
    expected = theirs.transform(images, {"lam": share} | inputs)
    torch.testing.assert_close(mixup(*with_previous(images), share), expected, rtol=0, atol=1e-6)
    expected = theirs.transform(labels, {"lam": share, "labels": labels})
    torch.testing.assert_close(
        mixed_labels(*with_previous(labels), share, CLASSES), expected, rtol=0, atol=1e-6
    )
    top, left, bottom, right = 2, 0, 9, 7
    mine, area = cutmix(*with_previous(images), 1 - (8 / 12) ** 2, (6 / 12, 3.6 / 9))
    box = {"box": (left, top, bottom - 3, right + 3), "lam_adjusted": area}
    expected = v2.CutMix(num_classes=CLASSES).transform(images, box | inputs)
    assert torch.equal(mine, expected)
    assert mine.is_contiguous(memory_format=torch.channels_last)


@given(st.floats(0, 1), st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)))
def test_the_share_of_cutmix_is_the_area_of_its_own_pixels(share, centre):
    mixed, area = cutmix(torch.ones(1, 1, 13, 8), torch.zeros(1, 1, 13, 8), share, centre)
    assert mixed.mean().item() == pytest.approx(area)
    assert area >= share - 1e-9, "a box is cut off, never larger"


def test_a_share_of_one_mixes_nothing():
    images, labels = batch()
    assert torch.equal(mixup(*with_previous(images), 1.0), images)
    pasted, area = cutmix(*with_previous(images), 1.0, (0.3, 0.9))
    assert torch.equal(pasted, images)
    assert area == 1
    assert torch.equal(mixed_labels(*with_previous(labels), 1.0, CLASSES), F.one_hot(labels, CLASSES).float())


@given(st.floats(0, 1))
def test_cross_entropy_is_linear_in_the_labels(share):
    _, labels = batch()
    logits, own, other = torch.randn(8, CLASSES).double(), labels, labels.roll(1)
    target = mixed_labels(*with_previous(labels), share, CLASSES)
    for loss in (F.cross_entropy, FocalLoss(0.0)):
        expected = share * loss(logits, own) + (1 - share) * loss(logits, other)
        torch.testing.assert_close(loss(logits, target.double()), expected, rtol=1e-5, atol=1e-6)


def test_shares_have_the_beta_distribution_and_both_come_half_of_the_time():
    drawn = [Mixing(data().mix, seed) for seed in range(4000)]
    pasted = np.array([one.pastes for one in drawn])
    assert abs(pasted.mean() - 0.5) < 0.04  # five standard deviations
    for which, alpha in ((pasted, 1.0), (~pasted, 0.2)):
        shares = np.array([one.share for one in drawn])[which]
        assert abs(shares.mean() - 0.5) < 0.05
        assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)
    centres = np.array([one.centre for one in drawn])
    np.testing.assert_allclose(
        np.quantile(centres, [0.25, 0.5, 0.75], axis=0).T, [[0.25, 0.5, 0.75]] * 2, atol=0.04
    )
    assert not any(Mixing(data("mixup").mix, seed).pastes for seed in range(20))
    assert all(Mixing(data("cutmix").mix, seed).pastes for seed in range(20))


DRAWN = Mix(cutmix=1.0, probability=0.6, partner_power=1.0)
"""As CMO mixes images."""


def batches(count, batch_size, mix="both", rank=0, world_size=1):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, 6, 6, 1), dtype=np.uint8)
    split = Split(images, generator.integers(0, CLASSES - 1, count))
    ranks = {"rank": rank, "world_size": world_size}
    cpu = torch.device("cpu")
    return TrainBatches(
        split, data(mix), batch_size=batch_size, seed=1, device=cpu, num_classes=CLASSES, **ranks
    )


def joined(parts, field):
    return torch.cat([getattr(part, field) for part in parts])


FIELDS = ("images", "labels", "indices", "probabilities")
SAMPLERS = ("instance-balanced", "class-balanced")


@settings(deadline=None, max_examples=30)
@given(
    st.integers(6, 40),
    st.sampled_from([*MIXES, "none"]),
    st.integers(1, 4),
    st.sampled_from(SAMPLERS),
)
def test_ranks_share_the_mixed_batches_of_one_rank(count, mix, world_size, sampler):
    size, own = count // 2, {"sampler": sampler, "mix": DRAWN if mix == "none" else None}
    alone = list(batches(count, size, mix).epoch(3, **own))
    assert sum(len(one.labels) for one in alone) == count
    if min(count, count // 2) < world_size or 0 < count % (count // 2) < 2 * world_size:
        return
    ranks = [list(batches(count, count // 2, mix, r, world_size).epoch(3, **own)) for r in range(world_size)]
    for whole, parts in zip(alone, zip(*ranks, strict=True), strict=True):
        for field in FIELDS:
            if whole.probabilities is not None or field != "probabilities":
                assert torch.equal(joined(parts, field), getattr(whole, field)), field


@each_mix
def test_the_rest_of_an_epoch_after_any_step(mix):
    whole = list(batches(20, 4, mix).epoch(2))
    for start in range(6):
        rest = list(batches(20, 4, mix).epoch(2, start))
        assert len(rest) == 5 - start
        for one, other in zip(whole[start:], rest, strict=True):
            assert all(torch.equal(getattr(one, field), getattr(other, field)) for field in FIELDS)


@each_mix
def test_a_batch_mixes_the_images_that_it_would_have_without(mix):
    """Indices, augmentation and labels stay; label and probabilities name the larger share."""
    plain_batches = batches(20, 5, mix)
    plain_batches._data = plain_batches._data.model_copy(update={"mixup": 0.0, "cutmix": 0.0})
    for plain, mixed in zip(plain_batches.epoch(0), batches(20, 5, mix).epoch(0), strict=True):
        assert plain.probabilities is None
        assert plain.target is plain.labels
        assert mixed.target is mixed.probabilities
        assert torch.equal(plain.indices, mixed.indices)
        own, other = plain.labels, plain.labels.roll(1)
        torch.testing.assert_close(mixed.probabilities.sum(1), torch.ones(5))
        largest = mixed.probabilities.amax(1)
        assert torch.equal(mixed.probabilities.gather(1, mixed.labels[:, None])[:, 0], largest)
        share = mixed.probabilities[own != other].gather(1, own[own != other, None])
        assert (share == share[0]).all(), "one λ for the batch"
        assert ((mixed.labels == own) | (mixed.labels == other)).all()
        if mix == "mixup" and (own != other).any():
            expected = share[0] * plain.images + (1 - share[0]) * plain.images.roll(1, 0)
            torch.testing.assert_close(mixed.images, expected, rtol=0, atol=1e-5)


OWN = np.array([12, 2, 1, 1]) / 16


@pytest.mark.parametrize(("power", "expected"), [(1.0, [1 / 4] * 4), (0.0, OWN)])
def test_partners_come_with_the_probability_of_their_class(power, expected):
    """The grey of an image is its label, so that of a mixed one is the mean of its probabilities."""
    labels = np.repeat(range(4), (400 * OWN).astype(int))
    images = np.tile(labels[:, None, None, None], (1, 4, 4, 1)).astype(np.uint8)
    grey = Data(name="digits", mean=(0.0,), std=(1 / 255,))
    batches = TrainBatches(Split(images, labels), grey, batch_size=4, seed=2, device=torch.device("cpu"))
    mix = Mix(mixup=1.0, partner_power=power)
    drawn = [batch for epoch in range(5) for batch in batches.epoch(epoch, mix=mix)]
    probabilities = joined(drawn, "probabilities")
    torch.testing.assert_close(joined(drawn, "images")[:, 0, 0, 0], probabilities @ torch.arange(4.0))
    np.testing.assert_allclose(probabilities.mean(0), (OWN + expected) / 2, atol=0.03)


def test_drawn_partners_change_only_what_is_pasted_and_only_some_batches():
    plain, mixed = (list(batches(40, 2, "none").epoch(5, mix=mix)) for mix in (None, DRAWN))
    for one, other in zip(plain, mixed, strict=True):
        assert torch.equal(one.indices, other.indices)
        if other.probabilities is None:
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.labels, other.labels)
        else:
            own = other.probabilities.gather(1, one.labels[:, None])[:, 0]
            changed = (one.images != other.images).float().mean((1, 2, 3))
            assert (changed[own < 1] <= 1 - own[own < 1] + 1e-6).all()
    happened = [batch.probabilities is not None for batch in mixed]
    assert 0 < sum(happened) < len(happened)
