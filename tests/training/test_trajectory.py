"""Runs that share a history: where it ends, and that sharing changes no bit."""

import json
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Literal, get_args, get_origin

import pytest
from torch import nn

from ffds.data.dataset import Split
from ffds.errors import Interrupted
from ffds.methods.registry import METHODS
from ffds.recipes.schedule import phase_starts, start_epoch
from ffds.training.phases import phases
from ffds.training.trajectory import history_hashes, loss_identity
from tests.training import tiny

PAIRS = {
    "ce, then d-ffds": (("ce",), ("d-ffds",)),
    "d-ffds, then ce": (("d-ffds",), ("ce",)),
    "ce, then a cold d-ffds": (("ce",), ("d-ffds", "method.observe=false")),
    "cold d-ffds, then d-ffds": (("d-ffds", "method.observe=false"), ("d-ffds",)),
    "ib, then ib-fl": (("ib",), ("ib-fl",)),
    "ldam, then ldam-drw": (("ldam",), ("ldam-drw",)),
    "d-ffds, then one with a later drop": (("d-ffds",), ("d-ffds", "schedule.milestones=[[0.99, 0.1]]")),
}


def one(method, *overrides):
    return tiny.recipe(*overrides, method=method)


def history(recipe):
    return history_hashes(recipe, tiny.dataset(), phases(recipe, tiny.COUNTS))


def shared(first, second):
    """Epochs that two runs have in common."""
    return common_epochs(history(first), history(second))


def common_epochs(first, second):
    """Of two histories; none may come back after it parted."""
    pairs = list(zip(first, second, strict=False))
    common = [a == b for a, b in pairs]
    assert common == sorted(common, reverse=True)
    return sum(common) - 1


@pytest.fixture
def steps(monkeypatch):
    """Epoch of every training step taken."""
    return tiny.steps_taken(monkeypatch)


@pytest.mark.parametrize("pair", PAIRS)
def test_a_branched_run_is_bit_equal_to_the_same_run_alone(pair, steps, tmp_path):
    first, second = (one(*settings) for settings in PAIRS[pair])
    alone = tiny.train(second, tmp_path / "alone")
    common = shared(first, second)
    assert common > 0
    tiny.train(first, tmp_path / "both", branches=[common])
    del steps[:]
    assert tiny.trace(tiny.train(second, tmp_path / "both")) == tiny.trace(alone)
    assert len(steps) == (tiny.EPOCHS - common) * tiny.STEPS


SETTINGS = "data.seed=1 data.imbalance_factor=10 data.augment=[hflip] model.name=resnet32 model.head=cosine "
SETTINGS += "trainer.seed=1 trainer.batch_size=16 trainer.precision=bf16 trainer.ema=0.9 trainer.clip_norm=1 "
SETTINGS += "trainer.accumulate=2 "
SETTINGS += "optimizer.name=adamw optimizer.head_lr=0.2 optimizer.layer_decay=0.9 "
SETTINGS += "optimizer.lr=0.05 optimizer.momentum=0.8 optimizer.weight_decay=1e-4"


@pytest.mark.parametrize("change", SETTINGS.split())
def test_a_change_of_the_setting_shares_nothing(change):
    assert history(one("ce", change))[0] != history(one("ce"))[0]
    assert shared(one("ce"), one("ce", change)) == -1


@pytest.mark.parametrize("setting", ["data.cache=false", "data.in_memory=true", "data.workers=3"])
def test_how_images_are_loaded_is_no_part_of_the_history(setting):
    assert history(one("d-ffds", setting)) == history(one("d-ffds"))
    assert one("ce", setting).config_hash == one("ce").config_hash


def test_training_images_are_a_part_of_the_history_those_of_the_test_are_not():
    recipe, images, fewer = one("ce"), tiny.dataset(), tiny.dataset([*tiny.COUNTS[:-1], 1])
    changed = replace(images, train=Split(255 - images.train.images, images.train.labels))
    elsewhere = replace(images, test=Split(255 - images.test.images, images.test.labels))
    ours, *others = (
        history_hashes(recipe, data, phases(recipe, data.class_counts)) for data in (images, changed, fewer)
    )
    assert not any({*ours} & {*theirs} for theirs in others)
    assert history_hashes(recipe, elsewhere, phases(recipe, tiny.COUNTS)) == ours


def test_validation_images_are_a_part_of_the_history_where_the_loss_follows_them():
    images = tiny.dataset(validation=True)
    held = images.validation
    changed = replace(images, validation=Split(255 - held.images, held.labels))
    for method, same in (("ce", True), ("cdb", False)):
        recipe = one(method)
        plan = phases(recipe, tiny.COUNTS)
        ours, theirs = (history_hashes(recipe, data, plan) for data in (images, changed))
        assert (ours[1:] == theirs[1:]) == same
        assert ours[0] == theirs[0]


CLOSED_FORMS_DRAW_NOTHING = [
    (method, "sampler") for method, settings in METHODS.items() if hasattr(settings, "candidates")
]


def another(settings, key):
    """A value of a setting that differs from the one it has."""
    value, kind = getattr(settings, key), type(settings).model_fields[key].annotation
    if get_origin(kind) is Literal:
        return next(one for one in get_args(kind) if one != value)
    if value is None or isinstance(value, str):  # dynamic, where a number may stand
        return 0.5
    if isinstance(value, bool):
        return json.dumps(not value)
    if isinstance(value, tuple):
        return json.dumps(value[1:])
    return value // 2 or value + 1 if isinstance(value, int) else value / 2 or 0.5


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        (method, setting)
        for method, settings in METHODS.items()
        for setting in settings.model_fields
        if setting not in ("name", "milestones", "start", "classifier_epochs", "classifier_milestones")
        if (method, setting) not in CLOSED_FORMS_DRAW_NOTHING
    ],
)
def test_a_change_of_the_loss_shares_only_the_epochs_before_it(method, setting):
    before = one(method)
    after = one(method, f"method.{setting}={another(before.method, setting)}")
    start = phase_starts(before)[-1]
    # LDAM's first phase has margins already, mixup's its λ; their weights come with the second.
    begun = method in ("ldam-drw", "mixup-drw") and setting not in ("beta", "sampler")
    begun = begun or (method == "gcl" and setting in ("cloud", "scale"))
    expected = 0 if begun else start
    assert shared(before, after) == expected


@pytest.mark.parametrize("method", [name for name in METHODS if "start" in METHODS[name].model_fields])
def test_another_start_shares_the_epochs_before_the_earlier_one(method):
    runs = [one(method, "schedule.epochs=20", f"method.start={start}") for start in (0.4, 0.6)]
    assert shared(*runs) == 8


def test_progressive_sampling_shares_what_is_as_far_in_the_phase():
    """A third of 12 epochs is not a third of 6: only the first epoch draws alike."""
    one_of_6, one_of_12 = (
        one("progressive-sampling", f"schedule.epochs={epochs}", "schedule.warmup=0") for epochs in (6, 12)
    )
    assert shared(one_of_6, one_of_12) == 1
    assert shared(one_of_6, one("ce", "schedule.epochs=6", "schedule.warmup=0")) == 0


def test_another_shape_of_the_schedule_shares_the_warm_up():
    steps, cosine = (
        one("ce", "schedule.epochs=20", f"schedule.shape={shape}") for shape in ("steps", "cosine")
    )
    # The first epoch after the two of the warm-up has the full rate in both.
    assert shared(steps, cosine) == 3


def test_no_two_methods_share_an_epoch_of_different_losses():
    runs = [one(method, "schedule.epochs=20") for method in METHODS]
    losses = [
        [phase.stage.name for phase in phases(run, tiny.COUNTS) for _ in phase.lr_factors] for run in runs
    ]
    for (ours, first), (theirs, second) in combinations(zip(losses, map(history, runs), strict=True), 2):
        common = max(common_epochs(first, second), 0)
        assert ours[:common] == theirs[:common]


def test_an_epoch_begun_unobserved_is_not_shared(tmp_path):
    ce, deferred = one("ce"), one("d-ffds")
    start = start_epoch(deferred.method, tiny.EPOCHS)
    with pytest.raises(Interrupted):
        tiny.train(ce, tmp_path, polls=(start - 1) * tiny.POLLS + 2)
    tiny.train(ce, tmp_path, branches=[start])  # too late to observe the whole epoch
    assert not (tmp_path / "digits" / "trajectories").exists()


def test_a_broken_shared_checkpoint_is_named_and_its_epochs_trained_again(capsys, tmp_path):
    recipe = one("d-ffds")
    alone = tiny.train(recipe, tmp_path / "alone")
    tiny.train(one("ce"), tmp_path, branches=[start_epoch(recipe.method, tiny.EPOCHS)])
    (weights,) = tmp_path.glob("digits/trajectories/*/*/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    run = tiny.train(recipe, tmp_path)
    assert "model.safetensors has" in capsys.readouterr().err
    assert tiny.trace(run) == tiny.trace(alone)


def test_a_setting_outside_the_repr_is_part_of_the_identity_of_a_loss():
    class Mixed(nn.Module):
        def __init__(self, margin, kinds=("a", 1.0)):
            super().__init__()
            self.inner = nn.MultiMarginLoss(margin=margin)
            self.kinds = kinds

    makers = [
        nn.CrossEntropyLoss,
        partial(nn.CrossEntropyLoss, label_smoothing=0.9),
        partial(nn.CrossEntropyLoss, reduction="sum"),
        partial(Mixed, 1.0),
        partial(Mixed, 5.0),
        partial(Mixed, 5.0, ("a", 2.0)),
        partial(Mixed, 5.0, None),
    ]
    assert len({loss_identity(make()) for make in makers}) == len(makers)
    assert [loss_identity(make()) for make in makers] == [loss_identity(make().eval()) for make in makers]

    addressed = [nn.Sequential(nn.Identity()) for _ in range(2)]
    for loss in addressed:
        loss[0].extra_repr = partial(repr, object())
    assert repr(addressed[0]) != repr(addressed[1])
    assert loss_identity(addressed[0]) == loss_identity(addressed[1])
