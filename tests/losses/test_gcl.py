"""The noise of GCL; whatever holds without it is in the laws of all losses, which it joins in eval mode."""

import pytest
import torch
from torch.nn import functional as F

from ffds.losses import GCLLoss
from tests.losses import naive
from tests.losses.battery import COUNTS, batch, kinds_of_target

SETTINGS = {"cloud": 0.4, "scale": 5.0, "margin": 0.1, "gamma": 1.0}


def seeded(loss, data):
    torch.manual_seed(3)
    return data.given_to(loss)


def test_a_step_equals_the_twin_with_the_same_noise():
    data = batch(20).to(torch.float64)
    value = seeded(GCLLoss(COUNTS, **SETTINGS, reduction="none"), data)
    torch.manual_seed(3)
    noise = [[min(abs(e) / 3, 1.0) for e in row] for row in torch.randn_like(data.logits).tolist()]
    size = naive.cloud_sizes(COUNTS, 0.4)
    clouded = data.logits - torch.tensor([[s * e for s, e in zip(size, row, strict=True)] for row in noise])
    expected = naive.gcl(clouded, data.target, 5.0, 0.1, 1.0)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-9)


@kinds_of_target
def test_each_step_has_noise_of_its_own_that_the_seed_repeats_and_eval_has_none(kind):
    data, loss = kind(batch()), GCLLoss(COUNTS)
    first = seeded(loss, data)
    assert data.given_to(loss) != first == seeded(loss, data)
    loss.eval()
    assert data.given_to(loss) == data.given_to(loss) == GCLLoss(COUNTS, cloud=0.0)(data.logits, data.target)


@pytest.mark.parametrize("counts", [COUNTS, [9] * 5])
def test_the_most_frequent_class_has_no_noise(counts):
    logits = torch.zeros(1000, 5)
    spread = GCLLoss(counts, cloud=0.4).clouded(logits).std(dim=0)
    frequent = torch.tensor(counts) == max(counts)
    assert (spread[frequent] == 0).all()
    assert (spread[~frequent] > 0).all()
    assert GCLLoss(counts).clouded(logits).min() >= -0.5


def test_equal_counts_leave_the_cross_entropy_of_scaled_cosines():
    data = batch()
    value = data.given_to(GCLLoss([9] * 5, scale=4.0))
    torch.testing.assert_close(value, F.cross_entropy(4 * data.logits, data.target))
