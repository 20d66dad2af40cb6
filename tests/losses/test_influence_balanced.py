import math

import pytest
import torch
import torch.nn.functional as F

from ffds.errors import InputError
from ffds.losses import InfluenceBalancedLoss, class_balanced_weights, inverse_frequency_weights
from tests.losses import naive

COUNTS = [10, 200, 3, 50]
GENERATOR = torch.Generator().manual_seed(3)
LOGITS = 2 * torch.randn(9, 4, generator=GENERATOR, dtype=torch.float64)
FEATURES = torch.randn(9, 6, generator=GENERATOR, dtype=torch.float64)
TARGET = torch.tensor([0, 1, 2, 3, 3, 2, 1, 0, 0])


@pytest.mark.parametrize("weights", [inverse_frequency_weights, class_balanced_weights])
@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_loss_equals_its_twin(weights, gamma):
    loss = InfluenceBalancedLoss(gamma=gamma, weight=weights(COUNTS))
    twin = naive.influence_balanced(LOGITS, TARGET, FEATURES, 1000.0, 1e-3, gamma)
    expected = (weights(COUNTS)[TARGET] * twin).sum() / len(TARGET)
    torch.testing.assert_close(loss(LOGITS, TARGET, FEATURES), expected, rtol=1e-6, atol=0)


def test_no_influence_and_alpha_equal_to_epsilon_give_cross_entropy():
    loss = InfluenceBalancedLoss(alpha=0.01, epsilon=0.01)
    torch.testing.assert_close(loss(LOGITS, TARGET, 0 * FEATURES), F.cross_entropy(LOGITS, TARGET))


def test_a_sample_with_larger_features_weighs_less():
    loss = InfluenceBalancedLoss(reduction="none")
    assert (loss(LOGITS, TARGET, 3 * FEATURES) < loss(LOGITS, TARGET, FEATURES)).all()


@pytest.mark.parametrize(
    ("setting", "value"),
    [(name, bad) for name in ("alpha", "epsilon") for bad in (0.0, -1.0, math.nan, math.inf)]
    + [("gamma", bad) for bad in (-0.1, math.nan, math.inf)],
)
def test_a_setting_out_of_range_is_refused(setting, value):
    with pytest.raises(InputError, match=f"{setting}={value}"):
        InfluenceBalancedLoss(**{setting: value})


def test_repr_shows_the_settings():
    assert "alpha=1000.0, epsilon=0.001, gamma=0.0, weighted=False" in repr(InfluenceBalancedLoss())
