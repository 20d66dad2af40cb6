"""Runs trained together: what they share is planned and printed, and an end in between loses nothing."""

from dataclasses import replace

import pytest

from ffds.data.dataset import Split
from ffds.errors import Interrupted
from ffds.jobs.engine import train_all
from ffds.jobs.plan import plan
from ffds.methods.registry import METHODS
from ffds.paper.reference import METHOD_TITLES
from ffds.recipes.load import load_recipe
from ffds.run_directory import Run
from tests.training import tiny


@pytest.fixture(autouse=True)
def tiny_digits(monkeypatch):
    tiny.use(monkeypatch)


def test_table_1a_needs_1610_epochs_instead_of_2200(tmp_path):
    settings = "schedule.epochs=200", "schedule.warmup=5", "schedule.milestones=[[0.8, 0.1], [0.9, 0.01]]"
    table = [load_recipe("digits", settings, method=method).recipe for method in METHOD_TITLES]
    found = plan(table, tmp_path)
    assert sum(run.recipe.schedule.epochs for run in found.runs) == 2200
    assert sum(run.to_train for run in found.runs) == 1610
    assert "2200 epochs: 0 done, 590 shared, 1610 to train" in str(found)


def test_a_plan_knows_what_is_done(tmp_path):
    recipes = [tiny.recipe(method="ce"), tiny.recipe()]
    tiny.train(recipes[0], tmp_path)
    found = plan(recipes, tmp_path)
    assert [(run.done, run.shared, run.to_train) for run in found.runs] == [(4, 0, 0), (0, 0, 4)], (
        "a finished run left no checkpoint at the branch"
    )
    train_all(recipes, out=tmp_path, shown=False)
    assert [run.done for run in plan(recipes, tmp_path).runs] == [4, 4]


def test_the_plan_is_printed_before_anything_is_trained(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("ffds.jobs.engine.train_recipe", lambda *_, **__: print("trains"))
    train_all([tiny.recipe(method="ce"), tiny.recipe()], out=tmp_path)
    found = capsys.readouterr()
    assert found.out == "trains\n" * 2
    assert "plan: 2 runs, 8 epochs: 0 done, 3 shared, 5 to train" in found.err
    assert "digits/ce/seed0-" in found.err
    train_all([tiny.recipe(method="ce")], out=tmp_path, shown=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("polls", range(1, 2 * tiny.EPOCHS * tiny.POLLS, 3))
def test_interrupted_anywhere_the_same_call_goes_on(polls, monkeypatch, tmp_path):
    recipes = [tiny.recipe(method="ce"), tiny.recipe()]
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


def test_a_failed_run_leaves_a_gap_and_the_others_go_on(capsys, tmp_path):
    alone = tiny.train(tiny.recipe(), tmp_path / "alone")
    diverging = tiny.recipe("optimizer.lr=1e30", method="ce")
    failures = train_all([diverging, tiny.recipe()], out=tmp_path, shown=False)
    assert list(failures) == [Run.of(diverging, tmp_path).path]
    assert "not finite" in capsys.readouterr().err
    assert tiny.trace(Run.of(tiny.recipe(), tmp_path)) == tiny.trace(alone)


def test_a_finished_run_of_other_images_is_a_gap(monkeypatch, capsys, tmp_path):
    run = tiny.train(tiny.recipe(method="ce"), tmp_path)
    assert not train_all([tiny.recipe(method="ce")], out=tmp_path, shown=False)
    images = tiny.dataset()
    tiny.use(monkeypatch, replace(images, train=Split(255 - images.train.images, images.train.labels)))
    recipes = [tiny.recipe(method=method) for method in ("ce", "fl")]
    assert list(train_all(recipes, out=tmp_path, shown=False)) == [run.path]
    assert "on other images" in capsys.readouterr().err
    assert Run.of(recipes[1], tmp_path).done


def test_data_that_cannot_be_opened_leave_a_gap(monkeypatch, capsys, tmp_path):
    monkeypatch.undo()
    recipes = [
        load_recipe("cifar10-lt-100", [f"data.root={tmp_path}/none"], method=m).recipe for m in METHODS
    ]
    failures = train_all(recipes, out=tmp_path, shown=False)
    assert len(failures) == len(METHODS)
    assert capsys.readouterr().err.count("data.root is not a directory") == 1
