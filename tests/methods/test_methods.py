"""Every method: its losses with the settings of the recipe, its epochs, its learning rates."""

import pytest
import torch
from torch import nn

from ffds.errors import InputError
from ffds.losses import (
    FFDSLoss,
    FocalLoss,
    InfluenceBalancedLoss,
    LDAMLoss,
    class_balanced_weights,
    inverse_frequency_weights,
)
from ffds.methods.base import phases, stages
from ffds.recipes.load import load_recipe
from ffds.recipes.method_settings import DEFERRED, METHODS, Custom
from ffds.recipes.schedule import lr_factor

COUNTS = [20, 300, 5, 80]
GROUPED = {"ffds", "d-ffds"}


def recipe(method, *overrides, name="cifar100-lt-100"):
    groups = ("method.num_groups=2",) if method in GROUPED else ()
    return load_recipe(name, [*groups, *overrides], method=method).recipe


def last_loss(method, *overrides):
    return stages(recipe(method, *overrides).method, COUNTS)[-1].loss


def weight(*settings):
    return class_balanced_weights(COUNTS, *settings)


# Losses


@pytest.mark.parametrize(
    ("method", "names", "with_features"),
    [
        ("ce", ["cross-entropy"], [False]),
        ("fl", ["focal"], [False]),
        ("cb", ["class-balanced"], [False]),
        ("cb-fl", ["class-balanced focal"], [False]),
        ("ldam", ["ldam"], [False]),
        ("ffds", ["ffds"], [False]),
        ("ldam-drw", ["ldam", "ldam, re-weighted"], [False, False]),
        ("ib", ["cross-entropy", "influence-balanced"], [False, True]),
        ("ib-cb", ["cross-entropy", "influence-balanced"], [False, True]),
        ("ib-fl", ["cross-entropy", "influence-balanced"], [False, True]),
        ("d-ffds", ["cross-entropy", "ffds"], [False, False]),
    ],
)
def test_stages(method, names, with_features):
    found = stages(recipe(method).method, COUNTS)
    assert [stage.name for stage in found] == names
    assert [stage.with_features for stage in found] == with_features
    assert (len(found) == 2) == isinstance(recipe(method).method, DEFERRED)


def test_the_list_above_is_complete():
    (mark,) = test_stages.pytestmark
    assert [case[0] for case in mark.args[1]] == list(METHODS)


def same(ours, theirs):
    assert type(ours) is type(theirs)
    state = theirs.state_dict()
    assert ours.state_dict().keys() == state.keys()
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, state[name], rtol=0, atol=0, equal_nan=True)
    plain = [
        {k: v for k, v in vars(loss).items() if k[0] != "_" or k == "_version"} for loss in (ours, theirs)
    ]
    assert plain[0] == plain[1]


SETTINGS = {
    "ce": ((), nn.CrossEntropyLoss()),
    "fl": (("gamma=2.5",), FocalLoss(2.5)),
    "cb": (("beta=0.99", "weight_scale=none"), FocalLoss(0.0, weight=weight(0.99, "none"))),
    "cb-fl": (("beta=0.9", "gamma=0.5"), FocalLoss(0.5, weight=weight(0.9))),
    "ldam": (("max_margin=0.3", "scale=20.0"), LDAMLoss(COUNTS, max_margin=0.3, scale=20.0)),
    "ldam-drw": (
        ("max_margin=0.3", "scale=20.0", "beta=0.9"),
        LDAMLoss(COUNTS, max_margin=0.3, scale=20.0, weight=weight(0.9)),
    ),
    "ib": (
        ("alpha=10.0", "epsilon=0.5"),
        InfluenceBalancedLoss(alpha=10.0, epsilon=0.5, weight=inverse_frequency_weights(COUNTS)),
    ),
    "ib-cb": (
        ("alpha=10.0", "epsilon=0.5", "beta=0.9"),
        InfluenceBalancedLoss(alpha=10.0, epsilon=0.5, weight=weight(0.9)),
    ),
    "ib-fl": (
        ("alpha=10.0", "epsilon=0.5", "gamma=2.0"),
        InfluenceBalancedLoss(alpha=10.0, epsilon=0.5, gamma=2.0, weight=inverse_frequency_weights(COUNTS)),
    ),
}
FFDS = {
    "beta": 0.9,
    "k": 0.5,
    "num_groups": 3,
    "gamma_min": 0.5,
    "gamma_max": 2.0,
    "curve": "linear",
    "label_smoothing": 0.2,
    "weight_scale": "released",
    "cold_start": "unsmoothed",
}
SETTINGS |= dict.fromkeys(
    ("ffds", "d-ffds"), (tuple(f"{key}={value}" for key, value in FFDS.items()), FFDSLoss(COUNTS, **FFDS))
)


@pytest.mark.parametrize("method", METHODS)
def test_settings_reach_the_loss(method):
    overrides, expected = SETTINGS[method]
    same(last_loss(method, *(f"method.{text}" for text in overrides)), expected)


def test_first_stages_are_plain():
    for method in ("ib", "ib-cb", "ib-fl", "d-ffds"):
        same(stages(recipe(method).method, COUNTS)[0].loss, nn.CrossEntropyLoss())
    first = stages(recipe("ldam-drw", "method.max_margin=0.3", "method.scale=20.0").method, COUNTS)[0]
    same(first.loss, LDAMLoss(COUNTS, max_margin=0.3, scale=20.0))


NOT_OF_THE_LOSS = {"name", "milestones", "start", "observe", "sampler"}


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        (name, key)
        for name, model in METHODS.items()
        for key in model.model_fields
        if key not in NOT_OF_THE_LOSS
    ],
)
def test_no_setting_is_dead(method, setting):
    """Whatever a recipe may say of a method changes its loss."""
    before = getattr(recipe(method).method, setting)
    words = {"curve": "convex", "weight_scale": "released", "cold_start": "unsmoothed"}
    after = words.get(setting) or {"num_groups": 3, "max_margin": 0.25}.get(setting, 0.125)
    assert after != before
    with pytest.raises(AssertionError):
        same(last_loss(method, f"method.{setting}={after}"), last_loss(method))


# Epochs


@pytest.mark.parametrize("method", METHODS)
def test_the_sampler_is_that_of_the_last_phase(method):
    plain, balanced = "instance-balanced", "class-balanced"
    for settings, last in (((), plain), ((f"method.sampler={balanced}",), balanced)):
        *first, found = [phase.stage.sampler for phase in phases(recipe(method, *settings), COUNTS)]
        assert found == last
        assert set(first) <= {plain}


@pytest.mark.parametrize("epochs", [2, 3, 7, 60, 200])
@pytest.mark.parametrize("method", METHODS)
def test_phases_cover_every_epoch_once(method, epochs):
    one = recipe(method, f"schedule.epochs={epochs}")
    found = phases(one, COUNTS)
    covered = [epoch for phase in found for epoch in range(phase.start, phase.stop)]
    assert covered == list(range(epochs))
    assert all(phase.start < phase.stop for phase in found)
    factors = [factor for phase in found for factor in phase.lr_factors]
    assert factors == [lr_factor(one, epoch) for epoch in range(epochs)]
    assert all(len(phase.lr_factors) == phase.stop - phase.start for phase in found)


@pytest.mark.parametrize(
    ("method", "start"), [("ldam-drw", 160), ("ib", 100), ("ib-cb", 100), ("ib-fl", 100), ("d-ffds", 130)]
)
def test_published_starts(method, start):
    first, second = phases(recipe(method), COUNTS)
    assert (first.start, first.stop, second.start, second.stop) == (0, start, start, 200)


DROPS = {
    "ce": {160: 0.1, 180: 0.01},
    "d-ffds": {160: 0.1, 180: 0.01},
    "ldam-drw": {160: 0.01, 180: 0.0001},
    "ib": {100: 0.01, 160: 0.0001, 180: 0.000001},
}


@pytest.mark.parametrize("method", DROPS)
def test_published_learning_rates(method):
    factors = [factor for phase in phases(recipe(method), COUNTS) for factor in phase.lr_factors]
    expected = [(epoch + 1) / 5 for epoch in range(5)] + [1.0] * 195
    for first, factor in DROPS[method].items():
        expected[first:] = [factor] * (200 - first)
    assert factors == pytest.approx(expected, rel=1e-12)


# Statistics


def test_deferred_ffds_observes_the_last_epoch_before_it():
    first, second = phases(recipe("d-ffds", "schedule.epochs=20"), COUNTS)
    assert first.stop == 13
    loss = second.stage.loss
    assert [first.next_from(epoch) for epoch in range(13)] == [None] * 12 + [loss]
    assert [second.next_from(epoch) for epoch in range(13, 20)] == [None] * 7
    assert (first.statistics, second.statistics) == (None, loss)


def test_deferred_ffds_may_start_cold():
    first, second = phases(recipe("d-ffds", "method.observe=false"), COUNTS)
    assert all(first.next_from(epoch) is None for epoch in range(first.stop))
    assert second.statistics is second.stage.loss


@pytest.mark.parametrize("method", [name for name in METHODS if name != "d-ffds"])
def test_no_other_method_observes(method):
    for phase in phases(recipe(method, "schedule.epochs=10"), COUNTS):
        assert phase.statistics is (phase.stage.loss if method == "ffds" else None)
        assert all(phase.next_from(epoch) is None for epoch in range(phase.start, phase.stop))


# Your own


class WithStatistics(nn.Module):
    def observe(self, logits, target):
        pass

    def end_epoch(self):
        pass


@pytest.mark.parametrize(("loss", "gathers"), [(nn.CrossEntropyLoss(), False), (WithStatistics(), True)])
def test_a_loss_of_your_own(loss, gathers):
    one = recipe("ce", "schedule.epochs=5").model_copy(update={"method": Custom(loss="own")})
    (phase,) = phases(one, COUNTS, loss)
    assert phase.stage.loss is loss
    assert (phase.start, phase.stop) == (0, 5)
    assert list(phase.lr_factors) == [lr_factor(one, epoch) for epoch in range(5)]
    assert phase.statistics is (loss if gathers else None)
    assert phase.next_from(4) is None


def test_a_loss_of_your_own_has_to_be_given():
    with pytest.raises(InputError, match="custom has no loss") as caught:
        stages(Custom(loss="own"), COUNTS)
    assert "ffds.train(recipe, loss=my_loss)" in str(caught.value)


@pytest.mark.parametrize("method", sorted(GROUPED))
def test_settings_that_do_not_fit_the_classes(method):
    with pytest.raises(InputError, match="num_groups"):
        last_loss(method, "method.num_groups=5")


@pytest.mark.parametrize("method", [name for name in METHODS if name not in {"ce", "fl"}])
def test_a_class_without_images_is_refused(method):
    with pytest.raises(InputError):
        stages(recipe(method).method, [20, 0, 5, 80])
