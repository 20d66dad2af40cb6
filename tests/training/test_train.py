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

OVERRIDES = {"schedule.epochs": 2, "trainer.batch_size": 32, "model.name": "resnet20"}


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
    assert summary["accuracy"]["last"] == last["test"]["accuracy"]
    assert summary["train_accuracy"] == last["train"]["accuracy"]
    best = max(run.metrics, key=lambda line: line["test"]["accuracy"])
    assert summary["accuracy"]["best_on_test"] == best["test"]["accuracy"]
    assert summary["accuracy"]["best_epoch"] == best["epoch"]
    assert 0 < sum(line["seconds"] for line in run.metrics) <= summary["seconds"] + 1e-6
    assert summary["images_per_second"] > 0
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__.split("+")[0]


def test_lines_of_metrics(tmp_path):
    run = trained(tmp_path, method="ldam-drw")
    for number, line in enumerate(run.metrics, 1):
        assert list(line) == [
            *("epoch", "phase", "lr", "train", "test", "validation", "seconds", "images_per_second"),
        ]
        assert line["epoch"] == number
        assert list(line["train"]) == ["loss", "accuracy", "head", "middle", "tail"]
        assert set(line["test"]) >= {"accuracy", "head", "middle", "tail", "per_class"}
    assert [line["phase"] for line in run.metrics] == ["ldam", "ldam, re-weighted"]


def test_a_finished_run_is_found_also_by_its_own_recipe_and_not_trained_again(tmp_path, monkeypatch):
    run = trained(tmp_path, method="ffds", seed=2)
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    monkeypatch.setattr("ffds.training.train.launch_fabric", lambda trainer: pytest.fail("trains again"))
    assert trained(tmp_path, method="ffds", seed=2).path == run.path
    assert train(str(run.path / "recipe.yaml"), out=tmp_path, shown=False).path == run.path
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before


def test_one_directory_for_each_run(tmp_path):
    once = {"schedule.epochs": 1}
    paths = {
        trained(tmp_path, method="ce", overrides=once).path,
        trained(tmp_path, method="ce", seed=1, overrides=once).path,
        trained(tmp_path, method="fl", overrides=once).path,
        trained(tmp_path, method="ce", overrides=once | {"optimizer.lr": 0.01}).path,
        trained(tmp_path / "other", method="ce", overrides=once).path,
        trained(tmp_path, method="ce", seed=0, overrides=once).path,
    }
    assert len(paths) == 5
    assert not list(tmp_path.rglob("*.tmp"))


def test_equal_seeds_give_equal_runs(tmp_path):
    one, same, other = (
        trained(tmp_path / name, method="ffds", seed=seed) for name, seed in [("a", 0), ("b", 0), ("c", 1)]
    )
    assert tiny.trace(one) == tiny.trace(same)
    assert tiny.trace(one) != tiny.trace(other)


def test_the_callers_random_numbers_are_untouched(tmp_path):
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002  (the global generator is the point)
    torch.manual_seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    trained(tmp_path, method="d-ffds")
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


class Asking(nn.CrossEntropyLoss):
    """Notes whether deterministic kernels are asked for, on the class: a copy of the loss is trained."""

    seen: list[bool] = []  # noqa: RUF012

    def forward(self, logits, target):
        self.seen.append(torch.are_deterministic_algorithms_enabled())
        return super().forward(logits, target)


def test_deterministic_kernels_are_asked_for_and_put_back(tmp_path, monkeypatch):
    monkeypatch.setattr(Asking, "seen", [])
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    trained(tmp_path, loss=Asking(), overrides={"trainer.deterministic": True})
    assert set(Asking.seen) == {True}
    assert not torch.are_deterministic_algorithms_enabled()
    trained(tmp_path, loss=Asking())
    assert Asking.seen[-1] is False


def test_what_it_says(tmp_path, capsys):
    trained(tmp_path, method="ce", shown=True)
    said = capsys.readouterr()
    assert said.out == ""
    assert [line.split(",")[0] for line in said.err.splitlines()] == [
        "digits ce seed 0: 2 epochs of 3 steps",
        "epoch 1/2 cross-entropy",
        "epoch 2/2 cross-entropy",
    ]
    assert said.err.splitlines()[-1].endswith("0:00:00 left")
    trained(tmp_path, method="ce", seed=1)
    assert capsys.readouterr() == ("", "")


def test_values_of_every_kind_as_overrides(tmp_path):
    given = {"optimizer.lr": 1e-30, "data.mean": [0.25], "trainer.precision": "bf16", "model.head": "cosine"}
    recipe = trained(tmp_path, method="ce", overrides=given | {"data.cut": None}).recipe
    assert (recipe.optimizer.lr, recipe.data.mean, recipe.data.cut) == (1e-30, (0.25,), None)
    assert (recipe.trainer.precision, recipe.model.head) == ("bf16", "cosine")


@pytest.mark.parametrize(
    "given",
    [
        {"overrides": {"schedule.epocs": 3}},
        {"method": "fffds"},
        {"seed": -1},
        {"method": "ce", "loss": FocalLoss()},
    ],
)
def test_a_slip_is_an_input_error(given, tmp_path):
    with pytest.raises(InputError):
        trained(tmp_path, **given)
    assert not list(tmp_path.iterdir())


def test_two_at_once_are_refused(tmp_path):
    recipe = tiny.recipe()
    run = Run.of(recipe, tmp_path)
    with run.locked(), pytest.raises(InputError, match="another process is training this run"):
        tiny.train(recipe, tmp_path)
    tiny.train(recipe, tmp_path)
    assert run.done


# Images that change


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


# A loss of your own


def test_a_loss_of_your_own_equals_the_method_that_it_is(tmp_path):
    run = trained(tmp_path, loss=FocalLoss(2.0))
    assert run.summary["method"] == "custom"
    assert run.path.parent.name == "custom"
    twin = trained(tmp_path, method="fl", overrides={"method.gamma": 2.0})
    ours, theirs = tiny.trace(run), tiny.trace(twin)
    weights = [name for name in ours if name.startswith("model ")]
    assert weights
    assert all(ours[name] == theirs[name] for name in weights)
    with pytest.raises(InputError, match="custom has no loss"):
        train(str(run.path / "recipe.yaml"), out=tmp_path / "other", shown=False)


def test_the_settings_of_a_loss_are_part_of_its_identity(tmp_path):
    def loss(**settings):
        return FFDSLoss(tiny.COUNTS, num_groups=3, **settings)

    weights = torch.ones(10), torch.arange(1.0, 11)
    losses = [FocalLoss(1.0), *(FocalLoss(1.0, weight=weight) for weight in weights)]
    losses += [loss(), loss(gamma_max=2.0), loss(weight_scale="none")]
    paths = [trained(tmp_path, loss=one, overrides={"schedule.epochs": 1}).path for one in losses]
    assert len(set(paths)) == len(losses)
    assert trained(tmp_path, loss=loss(), overrides={"schedule.epochs": 1}).path == paths[3]


class Setting:
    """Has no repr of its own, so that an address stands in its default."""


class Addressed(nn.CrossEntropyLoss):
    def __init__(self):
        super().__init__()
        self.setting = Setting()

    def extra_repr(self):
        return f"setting={self.setting!r}"


def test_an_address_is_no_part_of_the_identity(tmp_path):
    first, second = Addressed(), Addressed()
    assert repr(first) != repr(second)
    assert trained(tmp_path, loss=first).path == trained(tmp_path, loss=second).path


def test_the_same_loss_object_goes_on(tmp_path, monkeypatch):
    loss = FFDSLoss(tiny.COUNTS, num_groups=3)
    with monkeypatch.context() as patch:
        tiny.stop_after(patch, tiny.POLLS + 2)
        with pytest.raises(Interrupted):
            trained(tmp_path, loss=loss)
    assert loss.group_means.isnan().all(), "a copy is trained"
    assert trained(tmp_path, loss=loss).done
