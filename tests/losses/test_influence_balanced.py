import math

import pytest
import torch
import torch.nn.functional as F

from ffds.errors import InputError
from ffds.losses import InfluenceBalancedLoss

GENERATOR = torch.Generator().manual_seed(3)
LOGITS = 2 * torch.randn(9, 4, generator=GENERATOR, dtype=torch.float64)
FEATURES = torch.randn(9, 6, generator=GENERATOR, dtype=torch.float64)
TARGET = torch.tensor([0, 1, 2, 3, 3, 2, 1, 0, 0])


def test_no_influence_and_alpha_equal_to_epsilon_give_cross_entropy():
    loss = InfluenceBalancedLoss(alpha=0.01, epsilon=0.01)
    torch.testing.assert_close(loss(LOGITS, TARGET, 0 * FEATURES), F.cross_entropy(LOGITS, TARGET))


def test_a_sample_with_larger_features_weighs_less():
    loss = InfluenceBalancedLoss(reduction="none")
    assert (loss(LOGITS, TARGET, 3 * FEATURES) < loss(LOGITS, TARGET, FEATURES)).all()


def test_by_hand():
    # p_y = 0.25: 1.5 away from the label in the L1 norm; features 1 + 3.
    logits = torch.tensor([[math.log(0.25), math.log(0.75)]], dtype=torch.float64)
    loss = InfluenceBalancedLoss(alpha=2.0, epsilon=0.5)
    value = loss(logits, torch.tensor([0]), torch.tensor([[1.0, -3.0]]))
    assert value.item() == pytest.approx(math.log(4) * 2 / (1.5 * 4 + 0.5))


def test_the_gradient_runs_through_the_factor_also_to_the_features():
    features = FEATURES.clone().requires_grad_()
    InfluenceBalancedLoss()(LOGITS, TARGET, features).backward()
    assert features.grad.abs().max() > 0


@pytest.mark.parametrize("features", [torch.ones(1, 4), torch.ones(3), torch.ones(3, 4, 2, 2)])
def test_features_that_do_not_fit_are_refused(features):
    with pytest.raises(InputError, match=r"features \(N, D\)"):
        InfluenceBalancedLoss()(torch.zeros(3, 2), torch.tensor([0, 1, 0]), features)


@pytest.mark.parametrize(
    ("setting", "value"),
    [(name, bad) for name in ("alpha", "epsilon") for bad in (0.0, -1.0, math.nan, math.inf)]
    + [("gamma", bad) for bad in (-0.1, math.nan, math.inf)],
)
def test_a_setting_out_of_range_is_refused(setting, value):
    with pytest.raises(InputError, match=f"{setting}={value}"):
        InfluenceBalancedLoss(**{setting: value})
