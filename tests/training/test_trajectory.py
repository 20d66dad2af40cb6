"""Runs that share a history: where it ends, and that sharing changes no bit."""

import shutil
from dataclasses import replace

import pytest
import torch

from ffds.data.dataset import Split
from ffds.errors import Interrupted, NonFiniteLossError
from ffds.jobs.engine import train_all
from ffds.jobs.plan import plan
from ffds.methods.registry import METHODS
from ffds.paper.reference import METHOD_TITLES
from ffds.recipes.load import load_recipe
from ffds.recipes.schedule import start_epoch
from ffds.run_directory import Run
from ffds.training.loop import TrainingLoop
from ffds.training.phases import phases
from ffds.training.step import TrainStep
from ffds.training.train import train_recipe
from ffds.training.trajectory import Trajectory, history_hashes
from tests.training import tiny

PAIRS = {
    "ce, then d-ffds": (("ce",), ("d-ffds",)),
    "d-ffds, then ce": (("d-ffds",), ("ce",)),
    "d-ffds, then d-ffds with other groups": (("d-ffds",), ("d-ffds", "method.num_groups=3")),
    "ce, then a cold d-ffds": (("ce",), ("d-ffds", "method.observe=false")),
    "cold d-ffds, then d-ffds": (("d-ffds", "method.observe=false"), ("d-ffds",)),
    "ce, then ib": (("ce",), ("ib",)),
    "ib, then ib-fl": (("ib",), ("ib-fl",)),
    "ldam, then ldam-drw": (("ldam",), ("ldam-drw",)),
    "d-ffds, then one with a later drop": (("d-ffds",), ("d-ffds", "schedule.milestones=[[0.99, 0.1]]")),
}


def one(method, *overrides):
    return tiny.recipe(*overrides, method=method)


def history(recipe):
    return history_hashes(recipe, tiny.dataset(), phases(recipe, tiny.COUNTS))


def shared(first, second):
    """Epochs that two runs have in common; no history may come back after it parted."""
    pairs = list(zip(history(first), history(second), strict=False))
    common = [a == b for a, b in pairs]
    assert common == sorted(common, reverse=True)
    return sum(common) - 1


@pytest.fixture
def steps(monkeypatch):
    """Epoch of every training step taken."""
    taken, step = [], TrainStep.__call__

    def counted(self, *arguments, **how):
        taken.append(self.state.reached.epoch)
        step(self, *arguments, **how)

    monkeypatch.setattr(TrainStep, "__call__", counted)
    return taken


@pytest.fixture
def digits(monkeypatch):
    tiny.use(monkeypatch)


# Sharing changes nothing


@pytest.mark.parametrize("pair", PAIRS)
def test_a_branched_run_is_bit_equal_to_the_same_run_alone(pair, digits, steps, tmp_path):
    first, second = (one(*settings) for settings in PAIRS[pair])
    alone = train_recipe(second, out=tmp_path / "alone", shown=False)
    common = shared(first, second)
    assert common > 0
    del steps[:]
    expected = plan([first, second], tmp_path / "both")
    assert train_all([first, second], out=tmp_path / "both", shown=False) == {}
    branched = Run.of(second, tmp_path / "both")
    assert tiny.trace(branched) == tiny.trace(alone)
    assert len(steps) == (2 * tiny.EPOCHS - common) * tiny.STEPS
    assert sum(run.to_train for run in expected.runs) == 2 * tiny.EPOCHS - common


def test_three_runs_each_branch_off_where_they_part(digits, steps, tmp_path):
    settings = ("schedule.epochs=6", "method.start=0.5"), ("schedule.epochs=6", "method.start=0.7")
    runs = [one("ce", "schedule.epochs=6"), *(one("d-ffds", *given) for given in settings)]
    alone = [train_recipe(recipe, out=tmp_path / "alone", shown=False) for recipe in runs]
    del steps[:]
    train_all(runs, out=tmp_path / "both", shown=False)
    assert [tiny.trace(Run.of(r, tmp_path / "both")) for r in runs] == [tiny.trace(run) for run in alone]
    assert len(steps) == (6 + 3 + 2) * tiny.STEPS


def test_the_group_means_of_a_branch_come_from_the_shared_epoch(digits, tmp_path):
    recipe = one("d-ffds")
    loop = tiny.loop(tmp_path / "alone", recipe)
    loop.train()
    means = loop.state.losses[1].group_means
    assert not means.isnan().all()
    train_all([one("ce"), recipe], out=tmp_path, shown=False)
    again = tiny.loop(tmp_path / "again", recipe)
    again.trajectory = Trajectory(tmp_path / recipe.name / "trajectories", again.trajectory.histories)
    again._resume()
    assert again.reached.epoch == start_epoch(recipe.method, tiny.EPOCHS)
    seen = again.state.losses[1].group_means
    assert not seen.isnan().all()
    assert not torch.equal(seen.nan_to_num(), means.nan_to_num()), "those of a later epoch are not shared"
    assert not again.state.observed.counts.any()


def test_a_single_training_uses_what_lies_there(digits, steps, tmp_path):
    train_all([one("ce"), one("d-ffds")], out=tmp_path, shown=False)
    del steps[:]
    recipe = one("d-ffds", "method.k=0.5")
    train_recipe(recipe, out=tmp_path, shown=False)
    assert len(steps) == (tiny.EPOCHS - start_epoch(recipe.method, tiny.EPOCHS)) * tiny.STEPS


# What is shared, and what is not


@pytest.mark.parametrize(
    "change",
    [
        "data.seed=1",
        "data.imbalance_factor=10",
        "data.augment=[hflip]",
        "trainer.seed=1",
        "trainer.batch_size=16",
        "trainer.precision=bf16",
        "optimizer.lr=0.05",
        "optimizer.momentum=0.8",
        "optimizer.weight_decay=1e-4",
        "model.name=resnet32",
        "model.head=cosine",
    ],
)
def test_a_change_of_the_setting_shares_nothing(change):
    assert history(one("ce", change))[0] != history(one("ce"))[0]
    assert shared(one("ce"), one("ce", change)) == -1


@pytest.mark.parametrize("setting", ["data.cache=false", "data.in_memory=true", "data.workers=3"])
def test_how_images_are_loaded_is_no_part_of_the_history(setting):
    assert history(one("d-ffds", setting)) == history(one("d-ffds"))
    assert one("ce", setting).config_hash == one("ce").config_hash


def test_class_counts_are_a_part_of_the_history():
    recipe = one("ce")
    other = [*tiny.COUNTS[:-1], 1]
    assert history_hashes(recipe, tiny.dataset(other), phases(recipe, other))[0] != history(recipe)[0]


def test_images_are_a_part_of_the_history_those_of_the_test_are_not():
    recipe, images = one("ce"), tiny.dataset()
    changed = replace(images, train=Split(255 - images.train.images, images.train.labels))
    elsewhere = replace(images, test=Split(255 - images.test.images, images.test.labels))
    parts = phases(recipe, tiny.COUNTS)
    assert not {*history_hashes(recipe, changed, parts)} & {*history(recipe)}
    assert history_hashes(recipe, elsewhere, parts) == history(recipe)


CHANGES = {
    "beta": 0.99,
    "gamma": 2.0,
    "weight_scale": "none",
    "max_margin": 0.3,
    "scale": 20.0,
    "alpha": 100.0,
    "epsilon": 1e-2,
    "k": 0.5,
    "num_groups": 2,
    "gamma_min": 0.5,
    "gamma_max": 4.0,
    "curve": "linear",
    "label_smoothing": 0.2,
    "cold_start": "unsmoothed",
    "observe": "false",
    "sampler": "class-balanced",
}


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        (method, setting)
        for method, settings in METHODS.items()
        for setting in settings.model_fields
        if setting not in ("name", "milestones", "start")
    ],
)
def test_a_change_of_the_loss_shares_only_the_epochs_before_it(method, setting):
    before, after = one(method), one(method, f"method.{setting}={CHANGES[setting]}")
    start = start_epoch(before.method, tiny.EPOCHS)
    # LDAM's first phase has margins already; its weights come with the second.
    expected = 0 if method == "ldam-drw" and setting not in ("beta", "sampler") else start
    assert shared(before, after) == expected


@pytest.mark.parametrize("method", [name for name in METHODS if "start" in METHODS[name].model_fields])
def test_another_start_shares_the_epochs_before_the_earlier_one(method):
    runs = [one(method, "schedule.epochs=20", f"method.start={start}") for start in (0.4, 0.6)]
    assert shared(*runs) == 8


def test_another_learning_rate_shares_the_epochs_before_it():
    drops = "schedule.milestones=[[0.5, 0.1]]", "schedule.milestones=[[0.5, 0.2]]"
    assert shared(*(one("ce", "schedule.epochs=20", drop) for drop in drops)) == 10


def test_table_1a_needs_1610_epochs_instead_of_2200(digits, tmp_path):
    settings = "schedule.epochs=200", "schedule.warmup=5", "schedule.milestones=[[0.8, 0.1], [0.9, 0.01]]"
    table = [load_recipe("digits", settings, method=method).recipe for method in METHOD_TITLES]
    found = plan(table, tmp_path)
    assert sum(run.recipe.schedule.epochs for run in found.runs) == 2200
    assert sum(run.to_train for run in found.runs) == 1610
    assert "2200 epochs: 0 done, 590 shared, 1610 to train" in str(found)


def test_no_two_methods_share_an_epoch_of_different_losses():
    for first in METHODS:
        for second in METHODS:
            ours, theirs = (one(method, "schedule.epochs=20") for method in (first, second))
            common = shared(ours, theirs)
            losses = [
                [phase.stage.name for phase in phases(recipe, tiny.COUNTS) for _ in phase.lr_factors]
                for recipe in (ours, theirs)
            ]
            assert losses[0][: max(common, 0)] == losses[1][: max(common, 0)]


# Plans


def test_a_plan_knows_what_is_done(digits, tmp_path):
    recipes = [one("ce"), one("d-ffds")]
    train_recipe(recipes[0], out=tmp_path, shown=False)
    found = plan(recipes, tmp_path)
    assert [(run.done, run.shared, run.to_train) for run in found.runs] == [(4, 0, 0), (0, 0, 4)], (
        "a finished run left no checkpoint at the branch"
    )
    train_all(recipes, out=tmp_path, shown=False)
    assert [run.done for run in plan(recipes, tmp_path).runs] == [4, 4]


def test_the_plan_is_printed_before_anything_is_trained(digits, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("ffds.jobs.engine.train_recipe", lambda *_, **__: print("trains"))
    train_all([one("ce"), one("d-ffds")], out=tmp_path)
    found = capsys.readouterr()
    assert found.out == "trains\n" * 2
    assert "plan: 2 runs, 8 epochs: 0 done, 3 shared, 5 to train" in found.err
    assert "digits/ce/seed0-" in found.err
    train_all([one("ce")], out=tmp_path, shown=False)
    assert capsys.readouterr().err == ""


def test_the_same_recipe_twice_trains_once(digits, steps, tmp_path):
    train_all([one("ce"), one("ce")], out=tmp_path, shown=False)
    assert len(steps) == tiny.EPOCHS * tiny.STEPS


# Interruptions and failures


@pytest.mark.parametrize("polls", range(1, 2 * tiny.EPOCHS * tiny.POLLS, 3))
def test_interrupted_anywhere_the_same_call_goes_on(polls, monkeypatch, tmp_path):
    tiny.use(monkeypatch)
    recipes = [one("ce"), one("d-ffds")]
    train_all(recipes, out=tmp_path / "whole", shown=False)
    with monkeypatch.context() as patch:
        stopper = tiny.StopAfter(polls)
        patch.setattr("ffds.training.train.StopSignals", lambda: stopper)
        try:
            train_all(recipes, out=tmp_path / "parts", shown=False)
        except Interrupted:
            assert not all(Run.of(recipe, tmp_path / "parts").done for recipe in recipes)
    train_all(recipes, out=tmp_path / "parts", shown=False)
    for recipe in recipes:
        whole, parts = (Run.of(recipe, tmp_path / name) for name in ("whole", "parts"))
        assert tiny.trace(parts) == tiny.trace(whole)


def test_an_epoch_begun_unobserved_is_not_shared(monkeypatch, steps, tmp_path):
    tiny.use(monkeypatch)
    ce, deferred = one("ce"), one("d-ffds")
    alone = train_recipe(deferred, out=tmp_path / "alone", shown=False)
    start = start_epoch(deferred.method, tiny.EPOCHS)
    with monkeypatch.context() as patch:
        tiny.stop_after(patch, (start - 1) * tiny.POLLS + 2)
        with pytest.raises(Interrupted):
            train_recipe(ce, out=tmp_path, shown=False)
    # Told too late to leave the epoch.
    train_recipe(ce, out=tmp_path, shown=False, branches=[start])
    assert not (tmp_path / "digits" / "trajectories").exists()
    train_all([ce, deferred], out=tmp_path, shown=False)
    assert tiny.trace(Run.of(deferred, tmp_path)) == tiny.trace(alone)


def test_a_broken_shared_checkpoint_is_named_and_trained_again(digits, capsys, tmp_path):
    train_all([one("ce"), one("d-ffds")], out=tmp_path, shown=False)
    deferred = Run.of(one("d-ffds"), tmp_path)
    before = tiny.trace(deferred)
    shutil.rmtree(deferred.path)
    (weights,) = tmp_path.glob("digits/trajectories/*/*/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    capsys.readouterr()
    train_all([one("ce"), one("d-ffds")], out=tmp_path, shown=False)
    assert "model.safetensors has" in capsys.readouterr().err
    assert tiny.trace(deferred) == before


def test_a_failed_run_leaves_a_gap_and_the_others_go_on(digits, monkeypatch, capsys, tmp_path):
    alone = train_recipe(one("d-ffds"), out=tmp_path / "alone", shown=False)
    epoch = TrainingLoop._epoch

    def failing(self):
        if self.recipe.method.name == "ce" and self.reached.epoch == 1:
            raise NonFiniteLossError("not finite")
        return epoch(self)

    monkeypatch.setattr(TrainingLoop, "_epoch", failing)
    failures = train_all([one("ce"), one("d-ffds")], out=tmp_path, shown=False)
    assert {path: str(error) for path, error in failures.items()} == {
        Run.of(one("ce"), tmp_path).path: "not finite"
    }
    assert "not finite" in capsys.readouterr().err
    assert tiny.trace(Run.of(one("d-ffds"), tmp_path)) == tiny.trace(alone)


def test_data_that_cannot_be_opened_leave_a_gap(capsys, tmp_path):
    recipes = [
        load_recipe("cifar10-lt-100", [f"data.root={tmp_path}/none"], method=m).recipe for m in METHODS
    ]
    failures = train_all(recipes, out=tmp_path, shown=False)
    assert len(failures) == len(METHODS)
    assert capsys.readouterr().err.count("data.root is not a directory") == 1
