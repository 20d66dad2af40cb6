import math

import pytest
import torch
import torch.nn.functional as F

from ffds.errors import InputError
from ffds.losses import FocalLoss, class_balanced_weights

COUNTS = [200, 50, 10, 3]
LOGITS = 2 * torch.randn(9, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
TARGET = torch.tensor([0, 1, 2, 3, 3, 2, 1, 0, 0])


def test_the_weight_does_not_enter_the_probability():
    """A common re-implementation computes p from the weighted cross-entropy."""
    weight = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
    ours = FocalLoss(2.0, weight=weight, reduction="none")(LOGITS, TARGET)
    unweighted = FocalLoss(2.0, reduction="none")(LOGITS, TARGET)
    torch.testing.assert_close(ours, weight[TARGET] * unweighted, rtol=1e-12, atol=0)
    weighted_ce = weight[TARGET] * F.cross_entropy(LOGITS, TARGET, reduction="none")
    slip = weighted_ce * (1 - torch.exp(-weighted_ce)) ** 2
    assert not torch.allclose(ours, slip)


def test_mean_divides_by_the_batch_size():
    weight = class_balanced_weights(COUNTS)
    ours = FocalLoss(0.0, weight=weight)(LOGITS, TARGET)
    summed = F.cross_entropy(LOGITS, TARGET, weight=weight.double(), reduction="sum")
    torch.testing.assert_close(ours, summed / len(TARGET), rtol=1e-6, atol=0)
    assert ours != pytest.approx(F.cross_entropy(LOGITS, TARGET, weight=weight.double()).item())


@pytest.mark.parametrize("gamma", [-0.1, math.nan, math.inf])
def test_gamma_out_of_range_is_refused(gamma):
    with pytest.raises(InputError, match="gamma"):
        FocalLoss(gamma)
