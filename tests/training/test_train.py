"""From a recipe to a run directory, from Python."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import ffds
from ffds.data.dataset import Split
from ffds.errors import InputError, Interrupted
from ffds.losses import FFDSLoss, FocalLoss
from ffds.run_directory import Run
from ffds.training.train import train
from tests.training import tiny

OVERRIDES = {"schedule.epochs": 2, "trainer.batch_size": 32, "model.name": "resnet8"}


@pytest.fixture(autouse=True)
def tiny_digits(monkeypatch):
    tiny.use(monkeypatch)


def trained(out, **given):
    overrides = OVERRIDES | given.pop("overrides", {})
    return train("digits", out=out, overrides=overrides, **({"shown": False} | given))


def test_a_run(tmp_path):
    run = trained(tmp_path, method="d-ffds", seed=3)
    assert ffds.train is train
    assert run.path.parent == tmp_path / "digits" / "d-ffds"
    assert run.path.name == f"seed3-{run.recipe.config_hash[:8]}"
    assert [path.name for path in sorted(run.checkpoints.iterdir())] == ["epoch-0001", "epoch-0002"]
    summary, last = run.summary, run.metrics[-1]
    assert (summary["recipe"], summary["method"], summary["seed"]) == ("digits", "d-ffds", 3)
    assert (summary["config_hash"], summary["epochs"]) == (run.recipe.config_hash, 2)
    best = max(run.metrics, key=lambda line: line["test"]["accuracy"])
    numbers = {"last": last["test"]["accuracy"], "best_on_test": best["test"]["accuracy"]}
    assert summary["accuracy"] == numbers | {"best_epoch": best["epoch"]}
    assert summary["train_accuracy"] == last["train"]["accuracy"]
    assert 0 < sum(line["seconds"] for line in run.metrics) <= summary["seconds"] + 1e-6
    assert summary["images_per_second"] > 0
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__.split("+")[0]


def test_lines_of_metrics(tmp_path):
    run = trained(tmp_path, method="ldam-drw")
    for line in run.metrics:
        keys = ["epoch", "phase", "lr", "train", "test", "validation", "seconds", "images_per_second"]
        assert list(line) == keys
        assert list(line["train"]) == ["loss", "accuracy", "head", "middle", "tail"]
        assert set(line["test"]) >= {"accuracy", "head", "middle", "tail", "per_class"}
    phases = [(line["epoch"], line["phase"]) for line in run.metrics]
    assert phases == [(1, "ldam"), (2, "ldam, re-weighted")]


def test_a_finished_run_is_found_also_by_its_own_recipe_and_not_trained_again(tmp_path, monkeypatch):
    run = trained(tmp_path, method="ffds", seed=2)
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    monkeypatch.setattr("ffds.training.train.launch_fabric", lambda trainer: pytest.fail("trains again"))
    assert trained(tmp_path, method="ffds", seed=2).path == run.path
    assert train(str(run.path / "recipe.yaml"), out=tmp_path, shown=False).path == run.path
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before


def test_equal_seeds_give_equal_runs_and_leave_the_callers_random_numbers(tmp_path):
    def generators():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002

    before = generators()
    seeds = {"a": 0, "b": 0, "c": 1}
    one, same, other = (
        tiny.trace(trained(tmp_path / name, method="ffds", seed=seed)) for name, seed in seeds.items()
    )
    assert one == same
    assert one != other
    assert generators() == before


def test_deterministic_kernels_are_asked_for_and_put_back(tmp_path, monkeypatch):
    class Asking(nn.CrossEntropyLoss):
        def forward(self, logits, target):
            seen.append(torch.are_deterministic_algorithms_enabled())
            return super().forward(logits, target)

    seen = []
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    trained(tmp_path, loss=Asking(), overrides={"trainer.deterministic": True})
    assert len(seen) >= 2 * tiny.STEPS
    assert all(seen)
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_it_says(tmp_path, capsys):
    trained(tmp_path, method="ce", shown=True)
    out, err = capsys.readouterr()
    assert out == ""
    epochs = ["epoch 1/2 cross-entropy", "epoch 2/2 cross-entropy"]
    said = [line.split(",")[0] for line in err.splitlines()]
    assert said == ["digits ce seed 0: 2 epochs of 3 steps", *epochs]
    trained(tmp_path, method="ce", seed=1)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("given", [{"seed": -1}, {"method": "ce", "loss": FocalLoss()}])
def test_a_slip_is_an_input_error(given, tmp_path):
    with pytest.raises(InputError):
        trained(tmp_path, **given)
    assert not list(tmp_path.iterdir())


def test_two_at_once_are_refused(tmp_path):
    recipe = tiny.recipe("schedule.epochs=1", method="ce")
    with Run.of(recipe, tmp_path).locked(), pytest.raises(InputError, match="another process is training"):
        tiny.train(recipe, tmp_path)
    assert tiny.train(recipe, tmp_path).done


def test_neither_a_stopped_nor_a_finished_run_is_one_of_other_images(tmp_path):
    images = tiny.dataset()
    inverted = replace(images, train=Split(255 - images.train.images, images.train.labels))
    recipe = tiny.recipe(method="ce")
    with pytest.raises(Interrupted):
        tiny.train(recipe, tmp_path, polls=2)
    with pytest.raises(InputError, match=r"another run(.|\n)*images: \w{16} there, \w{16} here"):
        tiny.train(recipe, tmp_path, images=inverted)
    run = tiny.train(recipe, tmp_path)
    assert tiny.train(recipe, tmp_path) == run
    with pytest.raises(InputError, match="on other images"):
        tiny.train(recipe, tmp_path, images=inverted)


def test_half_of_the_test_images_gone_is_refused_and_named(tmp_path):
    recipe, fewer = tiny.recipe(method="ce"), tiny.dataset(of_test=2)
    with pytest.raises(Interrupted):
        tiny.train(recipe, tmp_path, polls=2)
    with pytest.raises(InputError, match=r"another run\n.*\n +got: +test_images: \w{16} there, \w{16} here"):
        tiny.train(recipe, tmp_path, images=fewer)
    tiny.train(recipe, tmp_path)
    with pytest.raises(
        InputError, match=r"on other images than(.|\n)*got: +test images \w{16} now, \w{16} then"
    ):
        tiny.train(recipe, tmp_path, images=fewer)


def test_a_loss_of_your_own_equals_the_method_that_it_is(tmp_path):
    run = trained(tmp_path, loss=FocalLoss(2.0))
    assert run.summary["method"] == run.path.parent.name == "custom"
    twin = trained(tmp_path, method="fl", overrides={"method.gamma": 2.0})
    ours, theirs = (
        {name: value for name, value in tiny.trace(one).items() if name.startswith("model ")}
        for one in (run, twin)
    )
    assert ours == theirs
    with pytest.raises(InputError, match="custom has no loss"):
        train(str(run.path / "recipe.yaml"), out=tmp_path / "other", shown=False)


def test_the_settings_of_a_loss_are_part_of_its_identity(tmp_path):
    def path(loss):
        return trained(tmp_path, loss=loss, overrides={"schedule.epochs": 1}).path

    losses = [FocalLoss(1.0), FocalLoss(1.0, weight=torch.ones(10)), FFDSLoss(tiny.COUNTS, num_groups=3)]
    losses += [FFDSLoss(tiny.COUNTS, num_groups=3, gamma_max=2.0)]
    assert len({path(loss) for loss in losses}) == len(losses)
    assert path(FFDSLoss(tiny.COUNTS, num_groups=3)) == path(losses[2])


def test_the_same_loss_object_goes_on(tmp_path, monkeypatch):
    loss = FFDSLoss(tiny.COUNTS, num_groups=3)
    with monkeypatch.context() as patch:
        tiny.stop_after(patch, tiny.POLLS + 2)
        with pytest.raises(Interrupted):
            trained(tmp_path, loss=loss)
    assert loss.group_means.isnan().all(), "a copy is trained"
    assert trained(tmp_path, loss=loss).done
