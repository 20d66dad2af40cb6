import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ffds.errors import InputError
from ffds.losses import FFDSLoss
from ffds.losses.ffds import frequency_groups
from tests.losses import naive
from tests.losses.battery import batch

COUNTS = [40, 500, 7, 120, 3, 260]
BY_GROUP = [[1, 5], [3, 0], [2, 4]]  # three groups, most frequent classes first
CURVES = ["linear", "convex", "concave"]

Batch = tuple[Tensor, Tensor]


def epoch_of_batches(seed: int, labels: list[list[int]]) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (2 * torch.randn(len(y), len(COUNTS), generator=generator, dtype=torch.float64), torch.tensor(y))
        for y in labels
    ]


def means_by_loops(batches: list[Batch], previous: list[float]) -> list[float]:
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


def train_epoch(loss: FFDSLoss, batches: list[Batch]) -> list[Tensor]:
    values = [loss(logits, target) for logits, target in batches]
    loss.end_epoch()
    return values


def assert_means(loss: FFDSLoss, expected: list[float]) -> None:
    torch.testing.assert_close(
        loss.group_means, torch.tensor(expected, dtype=torch.float32), rtol=1e-6, atol=0, equal_nan=True
    )


UNEVEN = [[0, 1, 2, 3, 4, 5, 1, 1], [5, 5, 3, 1], [2]]  # the last batch has one sample


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("num_groups", [1, 2, 3, 6])
@pytest.mark.parametrize("weight_scale", ["none", "mean", "released"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_second_epoch_equals_its_twin_of_constant_weight(curve, num_groups, weight_scale, label_smoothing):
    setting = {
        "beta": 0.999,
        "k": 0.7,
        "gamma_min": 0.5,
        "gamma_max": 4.5,
        "curve": curve,
        "label_smoothing": label_smoothing,
        "weight_scale": weight_scale,
    }
    loss = FFDSLoss(COUNTS, num_groups=num_groups, reduction="none", **setting)
    train_epoch(loss, epoch_of_batches(0, UNEVEN))
    ((logits, target),) = epoch_of_batches(1, UNEVEN[:1])
    logits.requires_grad_()
    twin = naive.ffds(logits, target, COUNTS, loss.group_means.tolist(), **setting)
    ours = loss(logits, target)
    torch.testing.assert_close(ours, twin, rtol=1e-5, atol=0)
    gradients = (torch.autograd.grad(loss.sum(), logits) for loss in (ours, twin))
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-12)


def test_three_epochs_equal_their_twin():
    setting = {
        "beta": 0.9999,
        "k": 0.9,
        "gamma_min": 0.0,
        "gamma_max": 3.0,
        "curve": "concave",
        "label_smoothing": 0.1,
        "weight_scale": "mean",
    }
    loss, means = FFDSLoss(COUNTS, num_groups=3), [math.nan] * 3
    for epoch in range(3):
        batches = epoch_of_batches(epoch, UNEVEN)
        for value, (logits, target) in zip(train_epoch(loss, batches), batches, strict=True):
            cold = naive.cross_entropy(logits, target)
            warm = naive.ffds(logits, target, COUNTS, means, **setting)
            assert value.item() == pytest.approx((warm if epoch else cold).mean().item(), rel=1e-5)
        means = means_by_loops(batches, means)
        assert_means(loss, means)


def test_cold_start_is_plain_cross_entropy_in_value_and_gradient():
    ((logits, target),) = epoch_of_batches(0, UNEVEN[:1])
    logits.requires_grad_()
    ours, twin = FFDSLoss(COUNTS, num_groups=3)(logits, target), naive.cross_entropy(logits, target).mean()
    torch.testing.assert_close(ours, twin)
    torch.testing.assert_close(torch.autograd.grad(ours, logits), torch.autograd.grad(twin, logits))


def test_cold_start_unsmoothed_is_weighted_focusing_with_the_model_probability():
    ((logits, target),) = epoch_of_batches(0, UNEVEN[:1])
    loss = FFDSLoss(COUNTS, num_groups=3, cold_start="unsmoothed", label_smoothing=0, reduction="none")
    weight = naive.scaled(naive.balanced_weights(COUNTS, 0.9999), "mean")
    gamma = naive.focusing(COUNTS, 0.0, 3.0, "concave")
    expected = [
        naive.focal(logits[i : i + 1], target[i : i + 1], gamma[label], weight)[0]
        for i, label in enumerate(target.tolist())
    ]
    torch.testing.assert_close(loss(logits, target), torch.stack(expected), rtol=1e-5, atol=0)


@pytest.mark.parametrize("cold_start", ["cross_entropy", "unsmoothed"])
def test_cold_start_ends_with_the_first_epoch(cold_start):
    ((logits, target),) = epoch_of_batches(0, UNEVEN[:1])
    loss = FFDSLoss(COUNTS, num_groups=3, cold_start=cold_start)
    first, again = loss(logits, target), loss(logits, target)
    assert first == again, "within an epoch nothing changes"
    loss.end_epoch()
    assert loss(logits, target) != first


def test_the_two_cold_starts_differ_in_the_first_epoch_only():
    ((logits, target),) = epoch_of_batches(0, UNEVEN[:1])
    one = FFDSLoss(COUNTS, num_groups=3, cold_start="cross_entropy")
    other = FFDSLoss(COUNTS, num_groups=3, cold_start="unsmoothed")
    assert one(logits, target) != other(logits, target)
    one.end_epoch()
    other.end_epoch()
    assert one(logits, target) == other(logits, target)


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
    generator, total, batch = torch.Generator().manual_seed(0), 0.0, 4096
    target = torch.zeros(batch, dtype=torch.int64)
    for _ in range(300):
        logits = torch.randn(batch, 2, generator=generator)
        loss.observe(logits, target)
        total += logits.double().softmax(1)[:, 0].sum().item()
    loss.end_epoch()
    assert loss.group_means.item() == pytest.approx(total / (300 * batch), rel=2e-6)


def test_an_epoch_counts_only_its_own_samples():
    loss = FFDSLoss(COUNTS, num_groups=3)
    train_epoch(loss, epoch_of_batches(0, UNEVEN))
    second = epoch_of_batches(1, UNEVEN)
    train_epoch(loss, second)
    assert_means(loss, means_by_loops(second, [math.nan] * 3))


def test_a_group_without_samples_keeps_its_mean_and_one_never_seen_stays_unknown():
    loss = FFDSLoss(COUNTS, num_groups=3)
    first = epoch_of_batches(0, [[1, 5, 3, 0], [0, 1]])  # nothing of group 2
    train_epoch(loss, first)
    means = means_by_loops(first, [math.nan] * 3)
    assert math.isnan(means[2])
    assert_means(loss, means)
    second = epoch_of_batches(1, [[5, 1, 1]])  # only group 0
    train_epoch(loss, second)
    later = means_by_loops(second, means)
    assert later[0] != means[0]
    assert later[1] == means[1]
    assert_means(loss, later)


def test_an_epoch_without_any_sample_changes_nothing():
    loss = FFDSLoss(COUNTS, num_groups=3)
    loss.end_epoch()
    assert loss.group_means.isnan().all()
    train_epoch(loss, epoch_of_batches(0, UNEVEN))
    before = loss.group_means.clone()
    loss.end_epoch()
    assert torch.equal(loss.group_means, before)


def test_a_step_that_is_not_finite_and_so_not_taken_leaves_the_statistics_alone():
    """As a loss scaler meets it: NaN in some samples of one step, or in all."""
    good, bad = batch(32, len(COUNTS)), batch(8, len(COUNTS), seed=1)
    found = []
    for broken in (0, 3, 8):
        loss = FFDSLoss(COUNTS, num_groups=3)
        loss(good.logits, good.target)
        logits = bad.logits.clone()
        logits[:broken] = math.nan
        loss(logits[:broken], bad.target[:broken])
        loss.observe(logits[:broken], bad.target[:broken])
        loss.end_epoch()
        found.append(loss.group_means)
    assert found[0].isfinite().all()
    assert torch.equal(found[1], found[0])
    assert torch.equal(found[2], found[0])


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


def test_evaluation_gathers_nothing():
    """The released code lets test images into the means of the next epoch."""
    loss, untouched = FFDSLoss(COUNTS, num_groups=3), FFDSLoss(COUNTS, num_groups=3)
    train, test = epoch_of_batches(0, UNEVEN), epoch_of_batches(1, UNEVEN)
    for logits, target in train:
        loss(logits, target)
        untouched(logits, target)
    loss.eval()
    for logits, target in test:
        loss(logits, target)
    loss.train()
    loss.end_epoch()
    untouched.end_epoch()
    assert torch.equal(loss.group_means, untouched.group_means)
    assert_means(loss, means_by_loops(train, [math.nan] * 3))


def test_evaluation_computes_the_same_loss_as_training():
    loss = FFDSLoss(COUNTS, num_groups=3)
    ((logits, target),) = epoch_of_batches(0, UNEVEN[:1])
    for _ in range(2):  # cold, then with group means
        training = loss(logits, target)
        assert loss.eval()(logits, target) == training
        loss.train().end_epoch()


@pytest.mark.parametrize("training", [True, False])
def test_observe_gathers_what_a_training_step_gathers(training):
    stepped, observed = FFDSLoss(COUNTS, num_groups=3), FFDSLoss(COUNTS, num_groups=3).train(training)
    for logits, target in epoch_of_batches(0, UNEVEN):
        stepped(logits, target)
        observed.observe(logits.requires_grad_(), target)
    for name, buffer in stepped.named_buffers():
        torch.testing.assert_close(dict(observed.named_buffers())[name], buffer, equal_nan=True)
    assert observed.gathered.counts.sum() == sum(map(len, UNEVEN))


def test_observing_before_a_deferred_start_replaces_the_cold_start():
    loss = FFDSLoss(COUNTS, num_groups=3)
    ((logits, target),) = epoch_of_batches(0, UNEVEN[:1])
    loss.observe(logits, target)
    loss.end_epoch()
    assert loss(logits, target).item() != pytest.approx(naive.cross_entropy(logits, target).mean().item())


def test_a_fresh_loss_does_not_continue_a_run_but_one_with_its_state_does():
    run, fresh = FFDSLoss(COUNTS, num_groups=3), FFDSLoss(COUNTS, num_groups=3)
    train_epoch(run, epoch_of_batches(0, UNEVEN))
    ((logits, target),) = epoch_of_batches(1, UNEVEN[:1])
    expected = run(logits, target)
    assert fresh(logits, target) != expected
    fresh.load_state_dict(run.state_dict())
    assert fresh(logits, target) == expected


def test_group_means_carry_no_gradient():
    loss = FFDSLoss(COUNTS, num_groups=3)
    for logits, target in epoch_of_batches(0, UNEVEN):
        loss(logits.requires_grad_(), target).backward()
    assert not any(buffer.requires_grad for buffer in loss.buffers())


def test_parts_switched_off_give_plain_cross_entropy_also_when_warm():
    loss = FFDSLoss(COUNTS, num_groups=3, beta=0, k=0, gamma_max=0, label_smoothing=0)
    train_epoch(loss, epoch_of_batches(0, UNEVEN))
    ((logits, target),) = epoch_of_batches(1, UNEVEN[:1])
    logits.requires_grad_()
    ours, twin = loss(logits, target), naive.cross_entropy(logits, target).mean()
    torch.testing.assert_close(ours, twin)
    torch.testing.assert_close(torch.autograd.grad(ours, logits), torch.autograd.grad(twin, logits))


@pytest.mark.parametrize("count", [0, -1, 1.5, float("nan")])
def test_an_unusable_class_count_is_refused_and_the_class_named(count):
    with pytest.raises(InputError, match="class 1 "):
        FFDSLoss([10, count, 3], num_groups=2)


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
        ({"num_groups": 7}, "1 to 6"),
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


def test_a_number_of_groups_may_be_one_of_numpy():
    assert torch.equal(frequency_groups(COUNTS, np.int64(3)), frequency_groups(COUNTS, 3))
    assert FFDSLoss(COUNTS, num_groups=np.int64(3)).group_means.shape == (3,)


def test_a_single_class_is_refused():
    with pytest.raises(InputError, match="at least two classes"):
        FFDSLoss([10], num_groups=1)


def test_observe_refuses_logits_of_another_number_of_classes():
    with pytest.raises(InputError, match="number of classes"):
        FFDSLoss(COUNTS, num_groups=3).observe(torch.zeros(2, 4), torch.tensor([0, 1]))


def test_repr_shows_the_settings():
    assert "classes=6, k=0.9, num_groups=3" in repr(FFDSLoss(COUNTS, num_groups=3))


@pytest.mark.parametrize("how", ["written in place", "loaded", "replaced by load", "in inference mode"])
def test_group_means_are_the_reference_however_they_came(how):
    logits, target = torch.randn(6, len(COUNTS)), torch.arange(6) % len(COUNTS)
    source = FFDSLoss(COUNTS, num_groups=2).eval()
    source.observe(logits, target)
    source.end_epoch()
    with torch.inference_mode(how == "in inference mode"):
        loss = FFDSLoss(COUNTS, num_groups=2).eval()
    assert not torch.equal(loss(logits, target), source(logits, target)), "cold"
    with torch.inference_mode(how == "in inference mode"):
        if how in ("written in place", "in inference mode"):
            loss.group_means.copy_(source.group_means)
        else:
            loss.load_state_dict(source.state_dict(), assign=how == "replaced by load")
    assert torch.equal(loss(logits, target), source(logits, target))
