"""FFDS: what it derives from the counts, its formula by hand, and its epochs."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ffds.errors import InputError
from ffds.losses import FFDSLoss
from ffds.losses.ffds import dynamic_smoothing, focusing_parameters, frequency_groups
from tests.losses import naive
from tests.losses.battery import batch, mixed, twin

COUNTS = [40, 500, 7, 120, 3, 260]
BY_GROUP = [[1, 5], [3, 0], [2, 4]]  # three groups, most frequent classes first
CURVES = ["linear", "convex", "concave"]
UNEVEN = [[0, 1, 2, 3, 4, 5, 1, 1], [5, 5, 3, 1], [2]]  # the last batch has one sample
unit = st.floats(0, 1)
every_curve = pytest.mark.parametrize("curve", CURVES)

LabelledLogits = tuple[Tensor, Tensor]


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


def test_classes_of_equal_count_keep_their_order():
    assert frequency_groups([5] * 40, 4).tolist() == [m for m in range(4) for _ in range(10)]


@settings(deadline=None, max_examples=60)
@given(st.data(), st.lists(st.integers(1, 1000), min_size=2, max_size=40))
def test_groups_equal_their_twin(data, counts):
    num_groups = data.draw(st.integers(1, len(counts)))
    group = frequency_groups(counts, num_groups)
    assert group.tolist() == naive.groups(counts, num_groups)
    assert set(group.tolist()) == set(range(num_groups)), "no group is empty"


@pytest.mark.parametrize(("classes", "expected"), [(2, 2), (9, 9), (10, 10), (11, 10), (100, 10)])
def test_by_default_there_are_ten_groups_or_one_a_class(classes, expected):
    loss = FFDSLoss(range(1, classes + 1))
    assert loss.group_means.shape == (expected,)
    assert torch.equal(loss.class_group, FFDSLoss(range(1, classes + 1), num_groups=expected).class_group)
    assert f"num_groups={expected}" in repr(loss)


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
    expected = torch.tensor(naive.focusing(counts, low, high, curve), dtype=torch.float32)
    torch.testing.assert_close(gamma, expected, rtol=1e-6, atol=1e-7)


def test_focusing_parameters_by_hand():
    counts = [1, 6, 11]  # r = 0, 1/2, 1
    assert focusing_parameters(counts, 1.0, 3.0, "linear").tolist() == [1.0, 2.0, 3.0]
    assert focusing_parameters(counts, 1.0, 3.0, "convex").tolist() == [1.0, 1.25, 3.0]
    concave = focusing_parameters(counts, 1.0, 3.0, "concave").tolist()
    assert concave == pytest.approx([1.0, 1 + 2 * 0.9640276, 1 + 2 * 0.9993293])
    assert focusing_parameters([7, 7, 7], 0.5, 3.0).tolist() == [0.5, 0.5, 0.5], "equal counts: the smallest"


@settings(deadline=None, max_examples=200)
@given(unit, unit, unit, unit)
def test_smoothed_probability_lies_between_probability_and_mean_the_nearer_the_larger_k(p, mean, k, other):
    at, weak_and_strong = torch.tensor([p, p], dtype=torch.float64), torch.tensor(sorted([k, other]))
    p_hat = dynamic_smoothing(at, torch.full_like(at, mean), weak_and_strong)
    assert min(p, mean) - 1e-15 <= p_hat.min().item() <= p_hat.max().item() <= max(p, mean) + 1e-15
    far, near = (p_hat - mean).abs().tolist()
    assert near <= far + 1e-15


@pytest.mark.parametrize(
    ("p", "mean", "k", "p_hat"),
    [
        (1.0, 0.0, 1.0, 0.0),  # d = 1: all the way to the mean
        (1.0, 0.0, 0.5, 0.75),  # f = 1/4
        (0.25, 0.81, 1.0, 0.3396),  # d = -0.4, f = 0.16: pulled up, 0.25 + 0.16 * 0.56
        (0.81, 0.25, 1.0, 0.7204),  # the same pull, downwards
        (0.25, 0.81, 0.9, 0.322576),  # f = 0.81 * 0.16
        (0.49, 0.49, 1.0, 0.49),
        (0.64, 0.09, 0.0, 0.64),
    ],
)
def test_smoothed_probability_by_hand(p, mean, k, p_hat):
    ours = dynamic_smoothing(torch.tensor(p).double(), torch.tensor(mean).double(), k)
    assert ours.item() == pytest.approx(p_hat, abs=1e-7)


def curve_of_figure_2a(p: float, mean: float) -> float:
    """Loss of D-FFDS with γ = 1 against p, without weight and label smoothing."""
    loss = FFDSLoss([1, 1], beta=0.0, num_groups=1, gamma_min=1.0, label_smoothing=0.0)
    loss.group_means.fill_(mean)
    logits = torch.tensor([[math.log(p), math.log1p(-p)]], dtype=torch.float64)
    return loss(logits, torch.tensor([0])).item()


def test_figure_2a_by_hand():
    assert curve_of_figure_2a(0.25, 0.81) == pytest.approx((1 - 0.322576) * math.log(4), rel=1e-6)
    # p̄ = 0.09, p = 0.64: d = 0.5, f = 0.2025, p̂ = 0.64 - 0.2025 * 0.55
    assert curve_of_figure_2a(0.64, 0.09) == pytest.approx((1 - 0.528625) * math.log(1 / 0.64), rel=1e-6)


@pytest.mark.parametrize("mean", [0.3, 0.5, 0.7, 0.9])
def test_figure_2a_crosses_the_focal_loss_at_the_group_mean(mean):
    def above_focal(p: float) -> float:
        return curve_of_figure_2a(p, mean) - (1 - p) * -math.log(p)

    assert above_focal(mean) == pytest.approx(0, abs=1e-7)
    assert above_focal(mean / 2) < 0, "below the mean p̂ > p: less loss than the focal loss"
    assert above_focal((1 + mean) / 2) > 0, "above it p̂ < p: more"


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


@every_curve
@pytest.mark.parametrize("num_groups", [1, 3, 6])
@pytest.mark.parametrize("weight_scale", ["none", "mean", "released"])
def test_settings_are_those_of_the_formula(curve, num_groups, weight_scale):
    setting = {"curve": curve, "gamma_min": 0.5, "gamma_max": 4.5}
    how = {"k": 0.7, "label_smoothing": 0.2}
    loss = FFDSLoss(
        COUNTS,
        beta=0.99,
        num_groups=num_groups,
        weight_scale=weight_scale,
        reduction="none",
        **how,
        **setting,
    )
    train_epoch(loss, epoch_of_batches(0, UNEVEN))
    ((logits, target),) = epoch_of_batches(1, UNEVEN[:1])
    weight = naive.scaled(naive.balanced_weights(COUNTS, 0.99), weight_scale)
    gamma = naive.focusing(COUNTS, **setting)
    means = [loss.group_means[m].item() for m in naive.groups(COUNTS, num_groups)]
    expected = naive.ffds(logits, target, weight, gamma, means, **how)
    torch.testing.assert_close(loss(logits, target), expected, rtol=1e-5, atol=0)


def test_three_epochs_equal_their_twin():
    loss, means = FFDSLoss(COUNTS, num_groups=3), [math.nan] * 3
    for epoch in range(3):
        batches = epoch_of_batches(epoch, UNEVEN)
        expected = [twin(loss, batch()._replace(logits=z, target=y)).mean().item() for z, y in batches]
        assert [value.item() for value in train_epoch(loss, batches)] == pytest.approx(expected, rel=1e-5)
        means = means_by_loops(batches, means)
        assert_means(loss, means)


@pytest.mark.parametrize("warmed_up", [False, True])
def test_without_its_parts_it_is_cross_entropy_in_value_and_gradient(warmed_up):
    """As in the cold start of any settings."""
    parts = {"beta": 0.0, "k": 0.0, "gamma_max": 0.0, "label_smoothing": 0.0} if warmed_up else {}
    loss = FFDSLoss(COUNTS, num_groups=3, **parts)
    if warmed_up:
        train_epoch(loss, epoch_of_batches(0, UNEVEN))
    ((logits, target),) = epoch_of_batches(1, UNEVEN[:1])
    logits.requires_grad_()
    ours, theirs = loss(logits, target), torch.nn.functional.cross_entropy(logits, target)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits))


@pytest.mark.parametrize("smoothing", [0.1, 0.7])
def test_label_smoothing_is_that_of_torch_with_a_larger_epsilon(smoothing):
    loss = FFDSLoss(COUNTS, beta=0.0, gamma_max=0.0, label_smoothing=smoothing, cold_start="unsmoothed")
    ((logits, target),) = epoch_of_batches(0, UNEVEN[:1])
    larger = smoothing * len(COUNTS) / (len(COUNTS) - 1)
    theirs = torch.nn.functional.cross_entropy(logits, target, label_smoothing=larger)
    torch.testing.assert_close(loss(logits, target), theirs)


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


def test_a_group_without_samples_keeps_its_mean_and_one_never_seen_stays_unknown():
    loss = FFDSLoss(COUNTS, num_groups=3)
    loss.end_epoch()
    assert loss.group_means.isnan().all(), "an epoch without any sample changes nothing"
    first = epoch_of_batches(0, [[1, 5, 3, 0], [0, 1]])  # nothing of group 2
    train_epoch(loss, first)
    means = means_by_loops(first, [math.nan] * 3)
    assert math.isnan(means[2])
    assert_means(loss, means)
    second = epoch_of_batches(1, [[5, 1, 1]])  # only group 0, and only these samples count
    train_epoch(loss, second)
    later = means_by_loops(second, means)
    assert later[0] != means[0]
    assert later[1] == means[1]
    assert_means(loss, later)
    loss.end_epoch()
    assert_means(loss, later)


def test_a_group_never_seen_is_unsmoothed_once_others_are_known():
    smoothed = FFDSLoss(COUNTS, num_groups=3, reduction="none")
    unsmoothed = FFDSLoss(COUNTS, num_groups=3, reduction="none", k=0.0)
    for loss in smoothed, unsmoothed:
        train_epoch(loss, epoch_of_batches(0, [[1, 5, 3, 0]]))
    ((logits, target),) = epoch_of_batches(1, [[1, 3, 2, 4]])
    ours, plain = smoothed(logits, target), unsmoothed(logits, target)
    assert ours.isfinite().all()
    assert torch.equal(ours[2:], plain[2:]), "classes 2 and 4 are of the group never seen"
    assert (ours[:2] != plain[:2]).all()


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
    assert torch.equal(means[1], means[0])
    assert torch.equal(means[2], means[0])


def test_a_sample_with_probabilities_counts_for_its_most_probable_label():
    data = mixed(batch(32, len(COUNTS)))
    data.target[5] = 0  # of no label
    loss, hard = FFDSLoss(COUNTS, num_groups=3), FFDSLoss(COUNTS, num_groups=3)
    loss(data.logits, data.target)
    label = data.target.argmax(dim=1)
    label[5] = -100
    hard(data.logits, label)
    assert torch.equal(loss.gathered.counts, hard.gathered.counts)
    assert torch.equal(loss.gathered.sums, hard.gathered.sums)
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


def test_observing_before_a_deferred_start_replaces_the_cold_start():
    loss = FFDSLoss(COUNTS, num_groups=3)
    ((logits, target),) = epoch_of_batches(0, UNEVEN[:1])
    loss.observe(logits, target)
    loss.end_epoch()
    assert loss(logits, target).item() != pytest.approx(naive.cross_entropy(logits, target).mean().item())


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
        ([0.0, 1.0], None, "labels cannot be counted"),
        ([True, False], None, "labels cannot be counted"),
        (["a", "b"], None, "labels cannot be counted"),
        ([], None, "labels cannot be counted"),
        (torch.eye(2, dtype=torch.int64), None, "labels cannot be counted"),
        (iter([0, 1]), None, "labels cannot be counted"),
    ],
)
def test_labels_that_are_not_those_of_all_classes_are_refused(labels, num_classes, named):
    with pytest.raises(InputError, match=named):
        FFDSLoss.from_labels(labels, num_classes)


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"beta": 1.0}, "beta"),
        ({"beta": -0.1}, "beta"),
        ({"beta": math.nan}, "beta"),
        ({"k": 1.1}, "k"),
        ({"k": -0.1}, "k"),
        ({"k": math.nan}, "k"),
        ({"num_groups": 0}, "num_groups"),
        ({"num_groups": 7}, "1 to 6, the number of classes\n  fix: +num_groups=6, or None"),
        ({"num_groups": 2.0}, "num_groups"),
        ({"num_groups": math.nan}, "num_groups"),
        ({"gamma_min": -1.0}, "gamma_min"),
        ({"gamma_min": 4.0, "gamma_max": 3.0}, "gamma_min=4.0, gamma_max=3.0"),
        ({"gamma_max": math.nan}, "gamma_max"),
        ({"gamma_max": math.inf}, "gamma_max"),
        ({"curve": "cubic"}, "linear, convex, concave"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"label_smoothing": -0.1}, "label_smoothing"),
        ({"label_smoothing": math.nan}, "label_smoothing"),
        ({"weight_scale": "sum"}, "none, mean, released"),
        ({"cold_start": "warm"}, "cross_entropy, unsmoothed"),
    ],
)
def test_a_setting_out_of_range_is_refused_and_named(setting, named):
    with pytest.raises(InputError, match=named):
        FFDSLoss(COUNTS, **{"num_groups": 3, **setting})
