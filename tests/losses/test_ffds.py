"""FFDS: what it derives from the counts, its formula by hand, and its epochs."""

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ffds.errors import InputError
from ffds.losses import FFDSLoss
from ffds.losses.ffds import focusing_parameters, frequency_groups
from tests.losses import naive
from tests.losses.battery import assert_same_state, batch, kinds_of_target, mixed, twin, warm

COUNTS = [40, 500, 7, 120, 3, 260]
BY_GROUP = [[1, 5], [3, 0], [2, 4]]  # three groups, most frequent classes first
CURVES = ["linear", "convex", "concave"]
UNEVEN = [[0, 1, 2, 3, 4, 5, 1, 1], [5, 5, 3, 1], [2]]  # the last batch has one sample

LabelledLogits = tuple[Tensor, Tensor]


@pytest.mark.parametrize(
    ("classes", "num_groups", "ends"),
    [(10, 3, [3, 6, 10]), (36, 5, [7, 14, 21, 28, 36]), (100, 10, list(range(10, 101, 10)))],
)
def test_group_bounds_are_those_of_the_released_code(classes, num_groups, ends):
    group = frequency_groups(range(2 * classes, classes, -1), num_groups)
    assert group.bincount().cumsum(0).tolist() == ends
    assert group.tolist() == sorted(group.tolist())


@settings(deadline=None, max_examples=60)
@given(st.data(), st.lists(st.integers(1, 30), min_size=2, max_size=40))
def test_groups_equal_their_twin(data, counts):
    num_groups = data.draw(st.integers(1, len(counts)))
    group = frequency_groups(counts, num_groups)
    assert group.tolist() == naive.groups(counts, num_groups)
    assert set(group.tolist()) == set(range(num_groups)), "no group is empty"


@pytest.mark.parametrize(("classes", "expected"), [(2, 2), (10, 10), (11, 10), (100, 10)])
def test_by_default_there_are_ten_groups_or_one_a_class(classes, expected):
    loss, other = (FFDSLoss(range(1, classes + 1), num_groups=groups) for groups in (None, expected))
    assert len(loss.group_means) == expected
    assert repr(loss) == repr(other)
    assert torch.equal(loss.class_group, other.class_group)


@settings(deadline=None, max_examples=60)
@example([7, 7, 7], 0.5, 3.0, "concave")
@given(st.lists(st.integers(1, 10**6), min_size=2), st.floats(0, 5), st.floats(0, 5), st.sampled_from(CURVES))
def test_focusing_parameters_equal_their_twin(counts, one, other, curve):
    low, high = sorted([one, other])
    gamma = focusing_parameters(counts, low, high, curve)
    expected = torch.tensor(naive.focusing(counts, low, high, curve), dtype=torch.float32)
    torch.testing.assert_close(gamma, expected, rtol=1e-6, atol=1e-7)


def epoch_of_batches(seed: int, labels: list[list[int]]) -> list[LabelledLogits]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (2 * torch.randn(len(y), len(COUNTS), generator=generator, dtype=torch.float64), torch.tensor(y))
        for y in labels
    ]


def means_by_loops(batches: list[LabelledLogits], previous: list[float]) -> list[float]:
    """Mean of p_y over all samples of each group; a group without any keeps its mean."""
    samples = [
        (float(p[label]), label)
        for logits, target in batches
        for p, label in zip(naive.softmax(logits), target.tolist(), strict=True)
    ]
    means = []
    for classes, before in zip(BY_GROUP, previous, strict=True):
        of_group = [p for p, label in samples if label in classes]
        means.append(sum(of_group) / len(of_group) if of_group else before)
    return means


def train_epoch(loss: FFDSLoss, batches: list[LabelledLogits]) -> list[Tensor]:
    values = [loss(logits, target) for logits, target in batches]
    loss.end_epoch()
    return values


def assert_means(loss: FFDSLoss, expected: list[float]) -> None:
    torch.testing.assert_close(
        loss.group_means, torch.tensor(expected, dtype=torch.float32), rtol=1e-6, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("num_groups", [1, 3, 6])
@pytest.mark.parametrize("weight_scale", ["none", "mean", "released"])
def test_settings_are_those_of_the_formula(curve, num_groups, weight_scale):
    focusing, how = {"curve": curve, "gamma_min": 0.5, "gamma_max": 4.5}, {"k": 0.7, "label_smoothing": 0.2}
    setting = {**focusing, **how, "num_groups": num_groups, "weight_scale": weight_scale}
    loss = FFDSLoss(COUNTS, beta=0.99, reduction="none", **setting)
    train_epoch(loss, epoch_of_batches(0, UNEVEN))
    ((logits, target),) = epoch_of_batches(1, UNEVEN[:1])
    weight = naive.scaled(naive.balanced_weights(COUNTS, 0.99), weight_scale)
    means = [loss.group_means[m].item() for m in naive.groups(COUNTS, num_groups)]
    expected = naive.ffds(logits, target, weight, naive.focusing(COUNTS, **focusing), means, **how)
    torch.testing.assert_close(loss(logits, target), expected, rtol=1e-5, atol=0)


def test_three_epochs_equal_their_twin():
    loss, means = FFDSLoss(COUNTS, num_groups=3), [math.nan] * 3
    for epoch in range(3):
        batches = epoch_of_batches(epoch, UNEVEN)
        expected = [twin(loss, batch()._replace(logits=z, target=y)).mean().item() for z, y in batches]
        assert [value.item() for value in train_epoch(loss, batches)] == pytest.approx(expected, rel=1e-5)
        means = means_by_loops(batches, means)
        assert_means(loss, means)


@pytest.mark.parametrize("cold_start", ["cross_entropy", "unsmoothed"])
def test_cold_start_ends_with_the_first_epoch(cold_start):
    ((logits, target),) = epoch_of_batches(0, UNEVEN[:1])
    loss = FFDSLoss(COUNTS, num_groups=3, cold_start=cold_start)
    first, again = loss(logits, target), loss(logits, target)
    assert first == again, "within an epoch nothing changes"
    assert loss.eval()(logits, target) == first, "evaluation computes the same"
    loss.train().end_epoch()
    warm = loss(logits, target)
    assert warm != first
    other = FFDSLoss(COUNTS, num_groups=3)
    train_epoch(other, [(logits, target)])
    assert other(logits, target) == warm, "the two cold starts differ in the first epoch only"


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=6), min_size=1, max_size=5),
    st.integers(0, 2**16),
)
def test_group_means_are_the_means_over_all_samples_however_they_are_batched(labels, seed):
    batches = epoch_of_batches(seed, labels)
    loss = FFDSLoss(COUNTS, num_groups=3)
    train_epoch(loss, batches)
    assert_means(loss, means_by_loops(batches, [math.nan] * 3))
    at_once = FFDSLoss(COUNTS, num_groups=3)
    logits, target = (torch.cat(parts) for parts in zip(*batches, strict=True))
    train_epoch(at_once, [(logits, target)])
    torch.testing.assert_close(at_once.group_means, loss.group_means, rtol=1e-6, atol=0, equal_nan=True)


def test_group_means_stay_exact_over_a_long_epoch():
    loss = FFDSLoss([2, 1], num_groups=1)
    generator, total, samples = torch.Generator().manual_seed(0), 0.0, 4096
    target = torch.zeros(samples, dtype=torch.int64)
    for _ in range(300):
        logits = torch.randn(samples, 2, generator=generator)
        loss.observe(logits, target)
        total += logits.double().softmax(1)[:, 0].sum().item()
    loss.end_epoch()
    assert loss.group_means.item() == pytest.approx(total / (300 * samples), rel=2e-6)


def test_a_group_without_samples_keeps_its_mean_and_one_never_seen_is_unsmoothed():
    loss, means = FFDSLoss(COUNTS, num_groups=3), [math.nan] * 3
    loss.end_epoch()
    assert_means(loss, means)
    for epoch, labels in enumerate([[[1, 5, 3, 0], [0, 1]], [[5, 1, 1]]]):  # nothing of group 2; only group 0
        batches = epoch_of_batches(epoch, labels)
        train_epoch(loss, batches)
        later = means_by_loops(batches, means)
        assert later[0] != means[0]
        assert math.isnan(later[2])
        assert_means(loss, later)
        means = later
    ((logits, target),) = epoch_of_batches(2, [[1, 3, 2, 4]])
    expected = twin(loss, batch()._replace(logits=logits, target=target)).mean()
    torch.testing.assert_close(loss(logits, target), expected, rtol=1e-5, atol=0)
    loss.gathered.clear()
    loss.end_epoch()
    assert_means(loss, means)


def test_a_step_that_is_not_finite_and_so_not_taken_leaves_the_statistics_alone():
    """As a loss scaler meets it: NaN in some samples of one step, or in all."""
    good, bad = batch(32, len(COUNTS)), batch(8, len(COUNTS), seed=1)
    means = []
    for broken in (0, 3, 8):
        loss = FFDSLoss(COUNTS, num_groups=3)
        loss(good.logits, good.target)
        logits = bad.logits.clone()
        logits[:broken] = math.nan
        loss(logits[:broken], bad.target[:broken])
        loss.observe(logits[:broken], bad.target[:broken])
        loss.end_epoch()
        means.append(loss.group_means)
    assert means[0].isfinite().all()
    assert torch.equal(torch.stack(means), means[0].expand(3, -1))


def test_a_sample_with_probabilities_counts_for_its_most_probable_label():
    data = mixed(batch(32, len(COUNTS)))
    data.target[5] = 0  # of no label
    label = data.target.argmax(dim=1)
    label[5] = -100
    loss, hard = FFDSLoss(COUNTS), FFDSLoss(COUNTS)
    loss(data.logits, data.target)
    hard(data.logits, label)
    assert_same_state(loss, hard)
    assert loss.gathered.counts.sum() == 31


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
def test_observe_gathers_in_any_mode_what_a_training_step_gathers(training, mode):
    stepped = FFDSLoss(COUNTS, num_groups=3, ignore_index=5)
    observed = FFDSLoss(COUNTS, num_groups=3, ignore_index=5).train(training)
    for logits, target in epoch_of_batches(0, UNEVEN):
        stepped(logits, target)
        with mode():
            observed.observe(logits.requires_grad_(), target)
    assert observed.gathered.counts.sum() == sum(y != 5 for labels in UNEVEN for y in labels)
    assert torch.equal(observed.gathered.sums, stepped.gathered.sums)
    assert not any(buffer.requires_grad for buffer in observed.buffers())


@kinds_of_target
@pytest.mark.parametrize("place", [torch.no_grad, torch.inference_mode, nullcontext])
def test_evaluation_gathers_nothing(kind, place):
    """The released code lets test images into the means; so would a loss outside of the model, never told."""
    loss, untouched = warm("ffds"), warm("ffds")
    loss.train(place is not nullcontext)
    with place():
        kind(batch(seed=3)).given_to(loss)
    assert_same_state(loss, untouched)


@pytest.mark.parametrize("after", [lambda x: x, lambda x: x.exp() * x], ids=["last", "followed by more"])
@pytest.mark.parametrize("how", [{"use_reentrant": True}, {"use_reentrant": False}, {"early_stop": False}])
def test_with_activation_checkpointing_each_sample_counts_once(after, how):
    loss, plain, data = warm("ffds"), warm("ffds"), batch()
    how = {"use_reentrant": False, **how}
    for _ in range(2):
        logits = data.logits.clone().requires_grad_()
        checkpoint(lambda z: after(data._replace(logits=2 * z).given_to(loss)), logits, **how).backward()
        gradient = data._replace(logits=2 * data.logits).gradient(lambda *args: after(plain(*args)))
        torch.testing.assert_close(logits.grad, 2 * gradient)
    assert_same_state(loss, plain)


def test_from_labels_counts_them():
    labels = [y for y, n in enumerate(COUNTS) for _ in range(n)]
    expected = FFDSLoss(COUNTS, num_groups=3, gamma_max=2.0)
    for given_labels in (labels, np.array(labels, dtype=np.uint8), torch.tensor(labels).flip(0)):
        loss = FFDSLoss.from_labels(given_labels, num_groups=3, gamma_max=2.0)
        assert torch.equal(loss.class_weight, expected.class_weight)
        assert torch.equal(loss.gamma, expected.gamma)
    assert len(FFDSLoss.from_labels(labels, 6).gamma) == 6


@pytest.mark.parametrize(
    ("labels", "num_classes", "named"),
    [
        ([0, 2, 2], None, "class 1 "),
        ([0, 1, 1], 4, "class 2, 3 "),
        ([0, 1, 3], 3, r"labels cannot be counted\n.*\n.*0 to 2"),
        ([0, -1], None, "labels cannot be counted"),
        *(
            (labels, None, "labels cannot be counted")
            for labels in ([0.0, 1.0], [True, False], ["a", "b"], [], torch.eye(2).long(), iter([0, 1]))
        ),
    ],
)
def test_labels_that_are_not_those_of_all_classes_are_refused(labels, num_classes, named):
    with pytest.raises(InputError, match=named):
        FFDSLoss.from_labels(labels, num_classes)
