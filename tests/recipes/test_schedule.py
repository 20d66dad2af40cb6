from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffds.methods.base import Deferred
from ffds.methods.registry import METHODS
from ffds.recipes.load import load_recipe
from ffds.recipes.schedule import epoch_at, lr_factor, milestone_epochs, start_epoch, warmup_epochs
from ffds.recipes.schema import Recipe, Schedule

LDAM_FAMILY = ("ldam", "ldam-drw")
IB_FAMILY = ("ib", "ib-cb", "ib-fl")


def recipe(method: str, epochs: int, name: str = "cifar100-lt-100") -> Recipe:
    return load_recipe(name, [f"schedule.epochs={epochs}"], method=method).recipe


def ffds_family(epoch: int) -> float:
    """The released schedule; `epoch` counts from 1, as in the released code of all three families."""
    if epoch <= 5:
        return epoch / 5
    return 0.01 if epoch > 180 else 0.1 if epoch > 160 else 1.0


def ldam_family(epoch: int) -> float:
    if epoch <= 5:
        return epoch / 5
    return 0.0001 if epoch > 180 else 0.01 if epoch > 160 else 1.0


def ib_family(epoch: int) -> float:
    if epoch <= 5:
        return epoch / 5
    return 1e-6 if epoch > 180 else 1e-4 if epoch > 160 else 0.01 if epoch > 100 else 1.0


def published(method: str) -> Callable[[int], float]:
    if method in LDAM_FAMILY:
        return ldam_family
    return ib_family if method in IB_FAMILY else ffds_family


@pytest.mark.parametrize("name", ["cifar10-lt-100", "cifar100-lt-10"])
@pytest.mark.parametrize("method", METHODS)
def test_200_epochs_of_cifar_follow_the_released_code_epoch_by_epoch(method: str, name: str) -> None:
    resolved = recipe(method, 200, name)
    found = [lr_factor(resolved, epoch) for epoch in range(200)]
    assert found == [published(method)(epoch + 1) for epoch in range(200)]


@pytest.mark.parametrize("method", ["ce", "ffds", "d-ffds"])
def test_100_epochs_of_ictext(method: str) -> None:
    resolved = recipe(method, 100, "ictext-lt-18")
    expected = [
        epoch / 5 if epoch <= 5 else 0.0001 if epoch > 80 else 0.01 if epoch > 60 else 1.0
        for epoch in range(1, 101)
    ]
    assert [lr_factor(resolved, epoch) for epoch in range(100)] == expected


@pytest.mark.parametrize("method", ["ce", "ffds", "d-ffds"])
def test_100_epochs_of_tiny_imagenet(method: str) -> None:
    resolved = recipe(method, 100, "tiny-imagenet-lt-100")
    expected = [epoch / 5 if epoch <= 5 else 0.01 if epoch > 15 else 1.0 for epoch in range(1, 101)]
    assert [lr_factor(resolved, epoch) for epoch in range(100)] == expected


@pytest.mark.parametrize(
    ("epochs", "name", "starts"),
    [
        (200, "cifar10-lt-50", {"d-ffds": 130, "ldam-drw": 160, "ib": 100, "ib-cb": 100, "ib-fl": 100}),
        (100, "tiny-imagenet-lt-10", {"d-ffds": 10, "ib": 50, "ib-cb": 50, "ib-fl": 50, "ldam-drw": 80}),
        (60, "cifar100-lt-100", {"d-ffds": 39, "ldam-drw": 48, "ib": 30, "ib-cb": 30, "ib-fl": 30}),
        (30, "cifar100-lt-100", {"d-ffds": 20, "ldam-drw": 24, "ib": 15, "ib-cb": 15, "ib-fl": 15}),
        (2, "cifar100-lt-100", {"d-ffds": 1, "ldam-drw": 1, "ib": 1, "ib-cb": 1, "ib-fl": 1}),
        (100, "ictext-lt-100", {"d-ffds": 50, "ib": 50, "ib-cb": 50, "ib-fl": 50, "ldam-drw": 80}),
        (2, "tiny-imagenet-lt-100", {"d-ffds": 1}),
    ],
)
def test_when_the_second_phase_starts(epochs: int, name: str, starts: dict[str, int]) -> None:
    assert {method: start_epoch(recipe(method, epochs, name).method, epochs) for method in starts} == starts


@pytest.mark.parametrize(
    ("epochs", "method", "warmup", "milestones"),
    [
        (60, "d-ffds", 5, ((48, 0.1), (54, 0.01))),
        (60, "ldam", 5, ((48, 0.01), (54, 0.0001))),
        (30, "d-ffds", 3, ((24, 0.1), (27, 0.01))),
        (30, "ib", 3, ((15, 0.01), (24, 0.0001), (27, 0.000001))),
        (2, "ib", 0, ((1, 0.01), (2, 0.0001), (2, 0.000001))),
        (1, "ce", 0, ((1, 0.1), (1, 0.01))),
    ],
)
def test_shorter_runs_keep_the_shape(
    epochs: int, method: str, warmup: int, milestones: tuple[tuple[int, float], ...]
) -> None:
    resolved = recipe(method, epochs)
    assert warmup_epochs(resolved.schedule) == warmup
    assert milestone_epochs(resolved) == milestones


def test_the_learning_rates_of_short_runs() -> None:
    assert [lr_factor(recipe("ib", 2), epoch) for epoch in range(2)] == [1.0, 0.01]
    assert lr_factor(recipe("ce", 1), 0) == 1.0
    assert [lr_factor(recipe("ce", 30), epoch) for epoch in (0, 1, 2, 3, 23, 24, 26, 27, 29)] == [
        *(1 / 3, 2 / 3, 1.0, 1.0, 1.0),
        *(0.1, 0.1, 0.01, 0.01),
    ]


def test_one_phase_methods_start_at_once() -> None:
    one_phase = [method for method, settings in METHODS.items() if "start" not in settings.model_fields]
    assert one_phase == ["ce", "fl", "cb", "cb-fl", "ldam", "ffds"]
    assert {start_epoch(recipe(method, 200).method, 200) for method in one_phase} == {0}


def test_a_methods_own_milestones_go_before_those_of_the_schedule() -> None:
    resolved = load_recipe("digits", ["method.milestones=[[0.5, 2]]"], method="ce").recipe
    assert milestone_epochs(resolved) == ((30, 2.0),)
    resolved = load_recipe("digits", ["method.milestones=null"], method="ldam").recipe
    assert milestone_epochs(resolved) == ((48, 0.1), (54, 0.01))
    resolved = load_recipe("digits", ["method.milestones=[]"], method="ldam").recipe
    assert {lr_factor(resolved, epoch) for epoch in range(10, 60)} == {1.0}


fractions = st.floats(0, 1, exclude_min=True, exclude_max=True)
lengths = st.integers(1, 10_000)


@settings(deadline=None)
@given(fractions, lengths)
def test_epoch_at_is_the_exact_rounding_of_the_number_as_written(fraction: float, epochs: int) -> None:
    assert epoch_at(fraction, epochs) == math.floor(Fraction(repr(fraction)) * epochs + Fraction(1, 2))


@settings(deadline=None)
@given(st.integers(1, 999), st.integers(1, 1000))
def test_epoch_at_hits_every_whole_epoch(thousandths: int, thousands: int) -> None:
    assert epoch_at(thousandths / 1000, 1000 * thousands) == thousandths * thousands


def test_halves_round_up_whatever_the_binary_fraction() -> None:
    assert 0.145 * 100 + 0.5 < 15
    assert epoch_at(0.145, 100) == 15


@settings(deadline=None)
@given(
    st.floats(0.001, 0.999),
    st.integers(2, 500),
    st.sampled_from([m for m, s in METHODS.items() if "start" in s.model_fields]),
)
def test_both_phases_have_at_least_one_epoch(start: float, epochs: int, method: str) -> None:
    settings = METHODS[method].model_validate({"start": start})
    assert isinstance(settings, Deferred)
    assert 1 <= start_epoch(settings, epochs) <= epochs - 1


@settings(deadline=None)
@given(st.integers(0, 50), lengths)
def test_warmup_rises_evenly_to_one_and_takes_at_most_a_tenth(warmup: int, epochs: int) -> None:
    schedule = Schedule(epochs=epochs, warmup=warmup, milestones=())
    resolved = recipe("ce", 200).model_copy(update={"schedule": schedule})
    found = [lr_factor(resolved, epoch) for epoch in range(min(epochs, 60))]
    length = min(warmup, epochs // 10)
    assert warmup_epochs(schedule) == length
    assert found == [min(1.0, (epoch + 1) / max(length, 1)) for epoch in range(len(found))]
