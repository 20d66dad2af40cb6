"""When the learning rate changes and when a second phase starts, against the released code of each method."""

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffds.errors import InputError
from ffds.methods.registry import METHODS
from ffds.recipes.load import load_recipe
from ffds.recipes.schedule import (
    described_schedule,
    epoch_at,
    lr_factor,
    milestone_epochs,
    start_epoch,
    warmup_epochs,
)
from ffds.recipes.schema import Schedule

DEFERRED = {method for method, settings in METHODS.items() if "start" in settings.model_fields}
IB = dict.fromkeys(("ib", "ib-cb", "ib-fl"))


def recipe(method, epochs, name="cifar100-lt-100"):
    return load_recipe(name, [f"schedule.epochs={epochs}"], method=method).recipe


def factors(method, epochs, name="cifar100-lt-100"):
    return [lr_factor(recipe(method, epochs, name), epoch) for epoch in range(epochs)]


def published(epochs, *drops):
    """The schedule of the released code, which counts epochs from 1: (last epoch before, factor after)."""
    expected = [epoch / 5 if epoch <= 5 else 1.0 for epoch in range(1, epochs + 1)]
    for last, factor in drops:
        expected[last:] = [factor] * (epochs - last)
    return expected


ONE_PHASE = ("ce", "fl", "cb", "cb-fl", "ldam", "ffds")
CIFAR = dict.fromkeys((*ONE_PHASE, "d-ffds"), published(200, (160, 0.1), (180, 0.01)))
CIFAR |= dict.fromkeys(
    ("ldam", "ldam-drw", "cb", "cb-fl", "sigmoid-cb-fl"), published(200, (160, 0.01), (180, 0.0001))
)
CIFAR |= dict.fromkeys(IB, published(200, (100, 0.01), (160, 1e-4), (180, 1e-6)))


@pytest.mark.parametrize("method", CIFAR)
def test_200_epochs_of_cifar_follow_the_released_code_epoch_by_epoch(method):
    assert factors(method, 200) == CIFAR[method]


@pytest.mark.parametrize("method", ["ce", "ffds", "d-ffds"])
def test_100_epochs_of_ictext_and_tiny_imagenet(method):
    assert factors(method, 100, "ictext-lt-18") == published(100, (60, 0.01), (80, 0.0001))
    assert factors(method, 100, "tiny-imagenet-lt-100") == published(100, (15, 0.01))


@pytest.mark.parametrize(
    ("epochs", "name", "d_ffds", "drw", "ib"),
    [
        (100, "tiny-imagenet-lt-10", 10, 80, 50),
        (60, "cifar100-lt-100", 39, 48, 30),
        (30, "cifar100-lt-100", 20, 24, 15),
        (100, "ictext-lt-100", 50, 80, 50),
        (2, "tiny-imagenet-lt-100", 1, 1, 1),
    ],
)
def test_when_the_second_phase_starts(epochs, name, d_ffds, drw, ib):
    starts = dict.fromkeys(ONE_PHASE, 0) | dict.fromkeys(IB, ib) | {"d-ffds": d_ffds, "ldam-drw": drw}
    assert {method: start_epoch(recipe(method, epochs, name).method, epochs) for method in starts} == starts


@pytest.mark.parametrize(
    ("epochs", "method", "warmup", "milestones"),
    [
        (60, "ldam", 5, ((48, 0.01), (54, 0.0001))),
        (30, "d-ffds", 3, ((24, 0.1), (27, 0.01))),
        (30, "ib", 3, ((15, 0.01), (24, 0.0001), (27, 0.000001))),
        (2, "ib", 0, ((1, 0.01), (2, 0.0001), (2, 0.000001))),
        (1, "ce", 0, ((1, 0.1), (1, 0.01))),
    ],
)
def test_shorter_runs_keep_the_shape(epochs, method, warmup, milestones):
    resolved = recipe(method, epochs)
    assert warmup_epochs(resolved.schedule) == warmup
    assert milestone_epochs(resolved) == milestones


@pytest.mark.parametrize(
    ("milestones", "method", "expected"),
    [("[[0.5, 2]]", "ce", ((30, 2.0),)), ("null", "ldam", ((48, 0.1), (54, 0.01))), ("[]", "ldam", ())],
)
def test_a_methods_own_milestones_go_before_those_of_the_schedule(milestones, method, expected):
    resolved = load_recipe("digits", [f"method.milestones={milestones}"], method=method).recipe
    assert milestone_epochs(resolved) == expected
    assert {lr_factor(resolved, epoch) for epoch in range(10, 60)} == {1.0, *(rate for _, rate in expected)}


@pytest.mark.parametrize("method", ["ce", "ldam-drw"])
def test_a_cosine_falls_from_one_to_nearly_nothing_whatever_the_milestones(method):
    resolved = load_recipe("digits", ["schedule.shape=cosine", "schedule.epochs=20"], method=method).recipe
    rates = [lr_factor(resolved, epoch) for epoch in range(20)]
    assert milestone_epochs(resolved) == ()
    assert rates[:3] == [0.5, 1.0, 1.0]
    expected = [1.0, 0.9924, 0.9698, 0.9330, 0.8830, 0.8214, 0.75, 0.6710, 0.5868, 0.5]  # ½(1 + cos 10°k)
    assert rates[2:12] == pytest.approx(expected, abs=1e-4)
    assert rates[12:] == pytest.approx([1 - rate for rate in rates[10:2:-1]])
    last = list(described_schedule(resolved).values())[-1]
    assert last.endswith(" falling along a cosine to 0.00076")


def test_milestones_beside_a_cosine_are_refused():
    milestones = "schedule.milestones=[[0.5, 0.1]]"
    with pytest.raises(InputError, match=r"shape cosine has no milestones: set milestones to \[\]"):
        load_recipe("digits", ["schedule.shape=cosine", milestones])
    load_recipe("digits", ["schedule.shape=cosine", "schedule.milestones=[]"])


@settings(deadline=None)
@given(st.floats(0, 1, exclude_min=True, exclude_max=True), st.integers(1, 10_000))
def test_epoch_at_is_the_exact_rounding_of_the_number_as_written(fraction, epochs):
    assert epoch_at(fraction, epochs) == math.floor(Fraction(repr(fraction)) * epochs + Fraction(1, 2))


@settings(deadline=None)
@given(st.floats(0.001, 0.999), st.integers(2, 500), st.sampled_from(sorted(DEFERRED)))
def test_both_phases_have_at_least_one_epoch(start, epochs, method):
    assert 1 <= start_epoch(METHODS[method](start=start), epochs) <= epochs - 1


@settings(deadline=None)
@given(st.integers(0, 50), st.integers(1, 10_000))
def test_warmup_rises_evenly_to_one_and_takes_at_most_a_tenth(warmup, epochs):
    schedule = Schedule(epochs=epochs, warmup=warmup, milestones=())
    resolved = recipe("ce", 200).model_copy(update={"schedule": schedule})
    rates = [lr_factor(resolved, epoch) for epoch in range(min(epochs, 60))]
    length = min(warmup, epochs // 10)
    assert warmup_epochs(schedule) == length
    assert rates == [min(1.0, (epoch + 1) / max(length, 1)) for epoch in range(len(rates))]
