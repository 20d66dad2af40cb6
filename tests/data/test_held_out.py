import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ffds.data.long_tail import held_out, part_of_each_class

labels_of_some = st.lists(st.integers(0, 5), min_size=1, max_size=60).map(
    lambda v: np.array(v, dtype=np.int64)
)


@given(labels_of_some, st.floats(0.01, 0.99), st.integers(0, 2**63 - 1), st.integers(0, 1))
def test_every_class_keeps_one_and_gives_its_part(labels, fraction, seed, least):
    marked = held_out(labels, fraction, seed, least)
    for c in np.unique(labels):
        count, given_away = (labels == c).sum(), marked[labels == c].sum()
        assert given_away < count
        assert given_away >= min(least, count - 1)
        assert abs(given_away - count * fraction) <= 1 or given_away == count - 1
    np.testing.assert_array_equal(marked, held_out(labels, fraction, seed, least))


def test_the_seed_decides_which():
    labels = np.zeros(100, dtype=np.int64)
    assert not np.array_equal(held_out(labels, 0.5, seed=0), held_out(labels, 0.5, seed=1))


def test_exact_sizes():
    labels = np.array([0, 1, 1, 1, 2, 2])
    marked = part_of_each_class(labels, [1, 2, 0], seed=3)
    assert [int(marked[labels == c].sum()) for c in range(3)] == [1, 2, 0]


def test_a_split_is_the_same_for_ever():
    assert np.flatnonzero(held_out(np.arange(12) % 2, 0.5, seed=0)).tolist() == [2, 3, 4, 7, 9, 10]
