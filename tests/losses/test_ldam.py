import math

import pytest
import torch
import torch.nn.functional as F

from ffds.errors import InputError
from ffds.losses import LDAMLoss, class_balanced_weights
from tests.losses import naive

COUNTS = [10, 200, 3, 50]
COSINES = torch.rand(9, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2 - 1
TARGET = torch.tensor([0, 1, 2, 3, 3, 2, 1, 0, 0])


@pytest.mark.parametrize("max_margin", [0.5, 0.1])
def test_margins_equal_the_formula(max_margin):
    margin = LDAMLoss(COUNTS, max_margin=max_margin).margin
    torch.testing.assert_close(margin, torch.tensor(naive.margins(COUNTS, max_margin)))
    assert margin.argmax() == 2
    assert margin.max().item() == pytest.approx(max_margin), "the rarest class has the largest margin"


def test_tiny_margins_at_scale_one_give_cross_entropy():
    ours = LDAMLoss(COUNTS, max_margin=1e-12, scale=1.0)(COSINES, TARGET)
    torch.testing.assert_close(ours, F.cross_entropy(COSINES, TARGET))


def test_weighted_mean_is_that_of_torch():
    loss = LDAMLoss(COUNTS, weight=class_balanced_weights(COUNTS))
    shifted = COSINES.clone()
    for i, label in enumerate(TARGET.tolist()):
        shifted[i, label] -= naive.margins(COUNTS, 0.5)[label]
    expected = F.cross_entropy(30 * shifted, TARGET, weight=class_balanced_weights(COUNTS).double())
    torch.testing.assert_close(loss(COSINES, TARGET), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("setting", ["max_margin", "scale"])
def test_a_setting_out_of_range_is_refused(setting, value):
    with pytest.raises(InputError, match=setting):
        LDAMLoss(COUNTS, **{setting: value})


def test_a_class_without_images_is_refused_and_named():
    with pytest.raises(InputError, match="class 1 "):
        LDAMLoss([3, 0])
