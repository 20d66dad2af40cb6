# ruff: noqa: NPY002  (the published rule is on the legacy global stream)
import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ffds.data.long_tail import (
    held_out,
    long_tail_counts,
    long_tail_indices,
    natural_tail_counts,
    part_of_each_class,
)
from ffds.errors import InputError

TOTALS = [
    (5000, 10, 100, 12_406), (5000, 10, 50, 13_996), (5000, 10, 10, 20_431),
    (500, 100, 100, 10_847), (500, 100, 50, 12_608), (500, 100, 10, 19_573),
    (500, 200, 100, 21_549), (500, 200, 50, 25_082), (500, 200, 10, 39_072),
    (3200, 36, 100, 25_711),
]  # fmt: skip


@pytest.mark.parametrize(("max_count", "num_classes", "factor", "total"), TOTALS)
def test_published_totals(max_count, num_classes, factor, total):
    assert sum(long_tail_counts(max_count, num_classes, factor)) == total


def test_a_step_of_an_odd_number_of_classes_has_a_small_head():
    assert long_tail_counts(100, 5, 10, "step") == [100, 100, 10, 10, 10]


@given(st.integers(1, 5000), st.integers(1, 200), st.floats(1, 200))
def test_counts_fall_from_the_largest_by_the_factor(max_count, num_classes, factor):
    assume(int(max_count / factor) > 0)
    counts = long_tail_counts(max_count, num_classes, factor)
    assert counts[0] == max_count
    assert counts == sorted(counts, reverse=True)
    assert num_classes == 1 or counts[-1] == pytest.approx(max_count / factor, abs=1)
    assert natural_tail_counts([max_count] * num_classes, factor) == counts


@given(st.integers(2, 5000), st.integers(2, 200))
@example(49, 2)
@example(98, 200)
def test_the_longest_tail_that_is_allowed_ends_with_one_image(max_count, num_classes):
    counts = long_tail_counts(max_count, num_classes, max_count)
    assert min(counts) == counts[-1] == 1
    assert natural_tail_counts([max_count] * num_classes, max_count) == counts


@pytest.mark.parametrize(
    ("rule", "arguments", "words"),
    [
        (long_tail_counts, (100, 10, 0.5), "imbalance factor"),
        (long_tail_counts, (100, 10, float("nan")), "imbalance factor"),
        (long_tail_counts, (100, 0, 10), "num_classes = 0"),
        (long_tail_counts, (0, 10, 10), "max_count = 0"),
        (long_tail_counts, (100, 10, 10, "linear"), "unknown profile"),
        (long_tail_counts, (10, 5, 50), "class 3 would keep no image"),
        (natural_tail_counts, ([], 10), "needs a class"),
        (natural_tail_counts, ([2, 50, 60], 100), "class 0 would keep no image"),
        (long_tail_indices, ([0, 0, 1], [3, 1]), "class 0 cannot supply"),
        (long_tail_indices, ([0, 0, 2], [2, 1]), "target 2 is out of range"),
        (long_tail_indices, ([[0, 1]], [1, 1]), "one integer per image"),
    ],
)
def test_bad_arguments(rule, arguments, words):
    with pytest.raises(InputError, match=words):
        rule(*arguments)


@given(st.lists(st.integers(0, 4), min_size=30, max_size=80).map(np.array))
def test_indices_equal_the_published_loop_and_leave_the_global_random_state(targets):
    available = np.bincount(targets, minlength=5)
    assume(available.min() > 0)
    counts = [max(1, int(n) - c) for c, n in enumerate(available)]
    np.random.seed(5)
    kept, after = long_tail_indices(targets, counts), np.random.rand()
    np.random.seed(5)
    assert np.random.rand() == after
    np.random.seed(0)
    expected = []
    for c, count in enumerate(counts):
        members = np.where(targets == c)[0]
        np.random.shuffle(members)
        expected += members[:count].tolist()
    assert kept.tolist() == expected


@given(st.lists(st.integers(1, 300), min_size=1, max_size=12), st.floats(1, 20))
def test_natural_tail_is_the_largest_that_every_class_supplies(available, factor):
    by_frequency = sorted(available, reverse=True)

    def supplied(n_max):
        last = max(len(available) - 1, 1)
        curve = [int(n_max * factor ** (-r / last)) for r in range(len(available))]
        return curve if all(c <= a for c, a in zip(curve, by_frequency, strict=True)) else None

    largest = max((n for n in range(1, max(available) + 1) if supplied(n)), default=0)
    if largest == 0 or 0 in supplied(largest):
        with pytest.raises(InputError, match="would keep no image"):
            natural_tail_counts(available, factor)
        return
    counts = natural_tail_counts(available, factor)
    assert sorted(counts, reverse=True) == supplied(largest)
    assert all(count <= there for count, there in zip(counts, available, strict=True))
    if len(set(available)) == len(available):
        assert natural_tail_counts(available[::-1], factor) == counts[::-1]


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=60).map(lambda v: np.array(v, dtype=np.int64)),
    st.floats(0.01, 0.99),
    st.integers(0, 2**63 - 1),
    st.integers(0, 1),
)
def test_every_class_keeps_one_and_gives_its_part(labels, fraction, seed, least):
    marked = held_out(labels, fraction, seed, least)
    for c in np.unique(labels):
        count, given_away = (labels == c).sum(), marked[labels == c].sum()
        assert given_away < count
        assert given_away >= min(least, count - 1)
        assert abs(given_away - count * fraction) <= 1 or given_away == count - 1
    np.testing.assert_array_equal(marked, held_out(labels, fraction, seed, least))


def test_the_seed_decides_what_is_held_out_for_ever():
    labels = np.zeros(100, dtype=np.int64)
    assert not np.array_equal(held_out(labels, 0.5, seed=0), held_out(labels, 0.5, seed=1))
    assert np.flatnonzero(held_out(np.arange(12) % 2, 0.5, seed=0)).tolist() == [2, 3, 4, 7, 9, 10]
    assert long_tail_indices([0] * 9, [3]).tolist() != long_tail_indices([0] * 9, [3], seed=1).tolist()
    labels = np.array([0, 1, 1, 1, 2, 2])
    marked = part_of_each_class(labels, [1, 2, 0], seed=3)
    assert [int(marked[labels == c].sum()) for c in range(3)] == [1, 2, 0]
