"""Which images an epoch draws: how often each class, and which of its images."""

from hashlib import sha256

import numpy as np
import pytest
import torch

from ffds.data.resample.draws import Draws, class_probabilities

COUNTS = {5: 1000, 2: 4, 7: 96}
LABELS = np.random.default_rng(0).permutation(np.repeat(list(COUNTS), list(COUNTS.values())))
"""1,000 images of class 5, 4 of class 2 and 96 of class 7, in no order; the other classes have none."""
TOTAL = len(LABELS)
OF_CLASS = {label: label == LABELS for label in COUNTS}


def times(sampler, epochs, *, seed=0, subset_seed=0, progress=0.0):
    """How often each image comes in these epochs."""
    draws = Draws(LABELS, seed, subset_seed=subset_seed)
    drawn = [draws.epoch(epoch, sampler, progress) for epoch in epochs]
    assert {len(rows) for rows in drawn} <= {TOTAL}
    return np.bincount(torch.cat(drawn).numpy(), minlength=TOTAL)


P_SQUARE_ROOT = np.array([2, 96**0.5, 1000**0.5]) / (2 + 96**0.5 + 1000**0.5)
P_PROGRESSIVE = 0.75 * np.array([4, 96, 1000]) / 1100 + 0.25 / 3
PROBABILITIES = {
    "class-balanced": np.full(3, 1 / 3),
    "square-root": P_SQUARE_ROOT,
    0.5: P_SQUARE_ROOT,
    0.0: np.full(3, 1 / 3),
    1.0: np.array([4, 96, 1000]) / 1100,
    "progressive": P_PROGRESSIVE,
}


@pytest.mark.parametrize("sampler", PROBABILITIES)
def test_a_class_comes_with_its_probability_and_its_images_alike(sampler):
    expected = dict(zip((2, 7, 5), PROBABILITIES[sampler], strict=True))
    np.testing.assert_allclose(
        class_probabilities(torch.tensor([4, 96, 1000]), sampler, 0.25), list(expected.values()), rtol=1e-12
    )
    seen, total = times(sampler, range(20), progress=0.25), 20 * TOTAL
    for label, p in expected.items():
        of_class = seen[OF_CLASS[label]]
        # Four standard deviations of a binomial count.
        assert abs(of_class.sum() - total * p) < 4 * (total * p * (1 - p)) ** 0.5
        each = total * p / COUNTS[label]
        assert np.square(of_class - each).mean() < 2 * each


@pytest.mark.parametrize("sampler", ["over-sampling", "under-sampling"])
def test_every_class_comes_equally_often_and_no_image_again_before_all_others(sampler):
    kept = COUNTS if sampler == "over-sampling" else dict.fromkeys(COUNTS, 4)
    for epochs in (range(1), range(1, 2), range(7)):
        seen = times(sampler, epochs)
        of_classes = [seen[OF_CLASS[label]] for label in COUNTS]
        totals = [of_class.sum() for of_class in of_classes]
        assert max(totals) - min(totals) <= 1
        assert [(of_class > 0).sum() for of_class in of_classes] == [
            min(kept[label], total) for label, total in zip(COUNTS, totals, strict=True)
        ]
        if epochs.start == 0:
            shares = [of_class[of_class > 0] for of_class in of_classes]
            assert all(share.max() - share.min() <= 1 for share in shares)


def test_the_images_that_under_sampling_keeps_are_those_of_the_subset_seed():
    kept, other_draws, other_images = (
        times("under-sampling", range(3), seed=seed, subset_seed=subset_seed) > 0
        for seed, subset_seed in ((0, 0), (1, 0), (0, 1))
    )
    np.testing.assert_array_equal(kept, other_draws)
    assert (kept != other_images).any()
    assert kept.sum() == other_images.sum() == 12


def test_epochs_mix_the_classes():
    """In every part of an epoch, over-sampling draws about a third of each class, in no fixed turn."""
    labels = LABELS[Draws(LABELS, 0).epoch(0, "over-sampling")]
    for part in np.array_split(labels, 5):
        assert 0.2 < (part == 2).mean() < 0.47
    assert 0.2 < (labels[1:] == labels[:-1]).mean() < 0.47


@pytest.mark.parametrize(
    ("sampler", "digest"), [("instance-balanced", "98bd4ceba96856f3"), ("class-balanced", "8081423362e8da3d")]
)
def test_draws_of_finished_runs_stay_as_they_were(sampler, digest):
    rows = torch.cat([Draws(LABELS, 3).epoch(epoch, sampler) for epoch in (0, 7)])
    assert sha256(rows.numpy().tobytes()).hexdigest()[:16] == digest
