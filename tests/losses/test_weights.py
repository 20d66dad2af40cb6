import copy
from collections import Counter
from decimal import Decimal, localcontext

import numpy as np
import pandas as pd
import pytest
import torch

from ffds.errors import InputError
from ffds.losses import class_balanced_weights, inverse_frequency_weights
from ffds.losses.weights import validated_counts
from tests.losses import naive

CIFAR10 = naive.exponential_counts(5000, 10, 100)
CIFAR100 = naive.exponential_counts(500, 100, 100)

every_scale = pytest.mark.parametrize("scale", ["none", "mean", "released"])


@every_scale
@pytest.mark.parametrize("counts", [CIFAR10, CIFAR100, [3, 500, 1, 70, 70, 2]])
def test_weights_equal_the_formulas(counts, scale):
    for beta in (0.0, 0.9, 0.99, 0.999, 0.9999):
        weights = class_balanced_weights(counts, beta, scale)
        expected = naive.scaled(naive.balanced_weights(counts, beta), scale)
        torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float32))
    for power in (0.0, 0.5, 1.0, 2.0):
        weights = inverse_frequency_weights(counts, power, scale)
        expected = naive.scaled([1 / n**power for n in counts], scale)
        torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float32))


def test_weights_keep_their_digits_when_beta_is_close_to_one():
    beta, counts = 1 - 2**-50, [7, 1000, 123456]
    with localcontext() as context:
        context.prec = 60
        exact = [float((1 - Decimal(beta)) / (1 - Decimal(beta) ** n)) for n in counts]
    torch.testing.assert_close(
        class_balanced_weights(counts, beta, "none"), torch.tensor(exact), rtol=2e-7, atol=0
    )


@pytest.mark.parametrize(
    "form",
    [
        lambda counts: np.array(counts, dtype=np.uint16),
        lambda counts: torch.tensor(counts, dtype=torch.float64),
        lambda counts: Counter(y for y in reversed(range(len(counts))) for _ in range(counts[y])),
        lambda counts: dict(reversed(list(enumerate(counts)))),
        lambda counts: pd.Series(counts)[::-1],
        lambda counts: pd.Series([c for c, n in enumerate(counts) for _ in range(n)]).value_counts(),
    ],
)
def test_counts_may_come_in_any_form_that_tells_their_label(form):
    counts = [3, 7, 7, 1, 20]
    given_counts = form(counts)
    before = copy.deepcopy(given_counts)
    assert validated_counts(given_counts).tolist() == counts
    assert torch.equal(class_balanced_weights(given_counts), class_balanced_weights(counts))
    assert str(given_counts) == str(before)


UNORDERED = [{2, 5}, frozenset([2, 5]), (n for n in (2, 5)), {0: 2, 1: 5}.values(), {0: 2, 1: 5}.items()]
NO_NUMBERS = [["2", "5"], "25", b"25", [2, None], [[2], [5, 6]], {0: "2", 1: "5"}, None, 5j]


@pytest.mark.parametrize("counts", UNORDERED + NO_NUMBERS)
def test_what_has_no_order_or_is_not_numbers_is_refused(counts):
    with pytest.raises(InputError, match="class counts are not numbers in label order"):
        validated_counts(counts)


@pytest.mark.parametrize(
    ("counts", "missing"),
    [({1: 5, 2: 3}, "0"), (Counter([0, 0, 3, 5]), "1, 2"), ({"0": 2, "1": 5}, "0, 1"), ({"a": 2}, "0")],
)
def test_a_mapping_without_a_label_is_refused_and_the_label_named(counts, missing):
    with pytest.raises(InputError, match=f"lack label {missing}\n"):
        validated_counts(counts)


@pytest.mark.parametrize(
    ("counts", "named"),
    [
        *(([10, 5, count, 1], "class 2 ") for count in (0, -3, 2.5, float("nan"), float("inf"))),
        ([10, 0, 5, 0], "class 1, 3 "),
        *((counts, "at least two classes") for counts in ([], [10], torch.ones(2, 2), torch.tensor(3))),
    ],
)
def test_unusable_counts_are_refused_and_their_classes_named(counts, named):
    with pytest.raises(InputError, match=named):
        validated_counts(counts)


@pytest.mark.parametrize(
    ("weights", "setting", "named"),
    [
        *((class_balanced_weights, {"beta": beta}, "beta") for beta in (-0.1, 1.0, float("nan"))),
        *((inverse_frequency_weights, {"power": p}, "power") for p in (-1.0, float("nan"), float("inf"))),
        (class_balanced_weights, {"scale": "sum"}, "none, mean, released"),
        (inverse_frequency_weights, {"scale": "sum"}, "none, mean, released"),
    ],
)
def test_a_setting_out_of_range_is_refused(weights, setting, named):
    with pytest.raises(InputError, match=named):
        weights([10, 5], **setting)
