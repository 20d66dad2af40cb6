"""Class weights from the accuracy of each class on held-out images."""

import math

import pytest
import torch

from ffds.errors import InputError
from ffds.losses import DifficultyBalancedLoss

ACCURACY = [0.9, 0.75, 0.5, 0.2, 0.0]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def expected(accuracy, tau):
    """As the papers and their released code write it."""
    d = [1 - a for a in accuracy]
    b = (1 - min(d)) / (1 - max(d) + 0.01)
    power = {"dynamic": sigmoid(b), "dynamic-imagenet": 2 * sigmoid(b - 1)}.get(tau, tau)
    weights = [x**power for x in d]
    return torch.tensor([w * len(d) / sum(weights) for w in weights])


def renewed(accuracy, tau, **how):
    loss = DifficultyBalancedLoss(len(accuracy), tau=tau, **how)
    assert loss.weight.tolist() == [1.0] * len(accuracy)
    loss.renew(torch.tensor(accuracy))
    return loss.weight


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.5, "dynamic", "dynamic-imagenet"])
def test_weights_are_the_difficulties_to_the_power_of_tau(tau):
    torch.testing.assert_close(renewed(ACCURACY, tau), expected(ACCURACY, tau))
    assert renewed(ACCURACY, 0.0).tolist() == [1.0] * 5, "cross-entropy"


def test_a_class_without_held_out_images_counts_as_the_most_difficult_of_the_others():
    some, unknown = [0.9, math.nan, 0.5], [math.nan] * 3
    torch.testing.assert_close(renewed(some, 1.0), expected([0.9, 0.5, 0.5], 1.0))
    for accuracy in (unknown, [1.0, 1.0, 1.0]):
        assert renewed(accuracy, "dynamic").tolist() == [1.0] * 3


@pytest.mark.parametrize("tau", [-0.1, math.nan, math.inf, "never"])
def test_a_tau_that_cannot_be_is_refused(tau):
    with pytest.raises(InputError, match="tau is out of range"):
        DifficultyBalancedLoss(3, tau=tau)
