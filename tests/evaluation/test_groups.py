"""Head, middle and tail; the doctest has many, medium and few."""

from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffds.errors import InputError
from ffds.evaluation.groups import class_groups


@pytest.mark.parametrize(
    ("classes", "sizes"),
    [
        *((10, (3, 4, 3)), (200, (66, 67, 67)), (36, (12, 12, 12)), (100, (33, 34, 33))),
        *((3, (1, 1, 1)), (2, (0, 1, 1)), (1, (0, 1, 0))),
    ],
)
def test_thirds(classes, sizes):
    groups = class_groups(range(classes, 0, -1), None)
    assert tuple(len(labels) for labels in groups.values()) == sizes
    assert list(chain(*groups.values())) == list(range(classes))


@given(st.lists(st.integers(0, 30), min_size=1, max_size=30), st.data())
def test_counts_fall_and_ties_keep_the_order_of_labels(counts, data):
    head = data.draw(st.integers(0, len(counts)))
    middle = data.draw(st.integers(0, len(counts) - head))
    groups = class_groups(counts, (head, middle, len(counts) - head - middle))
    assert list(groups) == ["head", "middle", "tail"]
    order = groups["head"] + groups["middle"] + groups["tail"]
    assert sorted(order) == list(range(len(counts)))
    assert [len(groups["head"]), len(groups["middle"])] == [head, middle]
    assert all((counts[one], -one) > (counts[other], -other) for one, other in pairwise(order))


def test_cut_must_add_up():
    with pytest.raises(InputError, match=r"data\.cut adds up to 9 classes, the data have 10"):
        class_groups([1] * 10, (3, 3, 3))
