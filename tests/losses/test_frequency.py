"""What FFDS derives from the class counts: groups and focusing parameters."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ffds.losses.ffds import focusing_parameters, frequency_groups
from tests.losses import naive

COUNTS = [40, 500, 7, 120, 3, 260]
BY_GROUP = [[1, 5], [3, 0], [2, 4]]  # three groups, most frequent classes first
CURVES = ["linear", "convex", "concave"]


@pytest.mark.parametrize(
    ("classes", "num_groups", "ends"),
    [
        (10, 3, [3, 6, 10]),
        (36, 5, [7, 14, 21, 28, 36]),
        (10, 2, [5, 10]),
        (100, 10, list(range(10, 101, 10))),
    ],
)
def test_group_bounds_are_those_of_the_released_code(classes, num_groups, ends):
    group = frequency_groups(range(2 * classes, classes, -1), num_groups)
    assert group.bincount().cumsum(0).tolist() == ends
    assert group.tolist() == sorted(group.tolist())


def test_groups_follow_the_counts_not_the_labels():
    group = frequency_groups(COUNTS, 3)
    assert [sorted((group == m).nonzero().flatten().tolist()) for m in range(3)] == [
        sorted(classes) for classes in BY_GROUP
    ]


def test_classes_of_equal_count_keep_their_order():
    assert frequency_groups([5] * 40, 4).tolist() == [m for m in range(4) for _ in range(10)]


@settings(deadline=None, max_examples=60)
@given(st.data(), st.lists(st.integers(1, 1000), min_size=2, max_size=40))
def test_groups_equal_their_twin(data, counts):
    num_groups = data.draw(st.integers(1, len(counts)))
    group = frequency_groups(counts, num_groups)
    assert group.tolist() == naive.groups(counts, num_groups)
    assert set(group.tolist()) == set(range(num_groups)), "no group is empty"


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 10**6), min_size=2, max_size=20),
    st.floats(0, 5),
    st.floats(0, 5),
    st.sampled_from(CURVES),
)
def test_focusing_parameters_equal_their_twin(counts, one, other, curve):
    low, high = sorted([one, other])
    gamma = focusing_parameters(counts, low, high, curve)
    twin = torch.tensor(naive.focusing(counts, low, high, curve), dtype=torch.float32)
    torch.testing.assert_close(gamma, twin, rtol=1e-6, atol=1e-7)


def test_focusing_parameters_by_hand():
    counts = [1, 6, 11]  # r = 0, 1/2, 1
    assert focusing_parameters(counts, 1.0, 3.0, "linear").tolist() == [1.0, 2.0, 3.0]
    assert focusing_parameters(counts, 1.0, 3.0, "convex").tolist() == [1.0, 1.25, 3.0]
    concave = focusing_parameters(counts, 1.0, 3.0, "concave").tolist()
    assert concave == pytest.approx([1.0, 1 + 2 * 0.9640276, 1 + 2 * 0.9993293])


def test_equal_counts_take_the_smallest_focusing_parameter():
    assert focusing_parameters([7, 7, 7], 0.5, 3.0).tolist() == [0.5, 0.5, 0.5]
