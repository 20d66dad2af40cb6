"""From a recipe to a run directory, from Python."""

import json
import random
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import ffds
from ffds.errors import InputError, Interrupted
from ffds.losses import FFDSLoss, FocalLoss
from ffds.run_directory import Run
from ffds.training.train import train, train_recipe
from ffds.training.trajectory import loss_identity
from tests.training import tiny

OVERRIDES = {"schedule.epochs": 2, "trainer.batch_size": 32, "model.name": "resnet20"}


@pytest.fixture(autouse=True)
def tiny_digits(monkeypatch):
    tiny.use(monkeypatch)


def trained(out, **given):
    return train("digits", out=out, overrides=OVERRIDES | given.pop("overrides", {}), shown=False, **given)


def test_a_run(tmp_path):
    run = trained(tmp_path, method="d-ffds", seed=3)
    assert isinstance(run, Run)
    assert ffds.train is train
    assert run.path.parent == tmp_path / "digits" / "d-ffds"
    assert run.path.name == f"seed3-{run.recipe.config_hash[:8]}"
    assert {path.name for path in run.path.iterdir()} == {
        *("recipe.yaml", "environment.json", "metrics.jsonl", "summary.json", "predictions.parquet"),
        *("checkpoints", "lock"),
    }
    assert [path.name for path in sorted(run.checkpoints.iterdir())] == ["epoch-0001", "epoch-0002"]
    summary = run.summary
    assert set(summary) == {
        *("recipe", "method", "seed", "config_hash", "epochs", "accuracy", "balanced_accuracy", "macro_f1"),
        *("ece", "head", "middle", "tail", "many", "medium", "few", "train_accuracy", "seconds"),
        "images_per_second",
    }
    assert (summary["recipe"], summary["method"], summary["seed"]) == ("digits", "d-ffds", 3)
    assert summary["config_hash"] == run.recipe.config_hash
    assert summary["epochs"] == 2
    last = run.metrics[-1]
    assert summary["accuracy"]["last"] == last["test"]["accuracy"]
    assert summary["train_accuracy"] == last["train"]["accuracy"]
    best = max(run.metrics, key=lambda line: line["test"]["accuracy"])
    assert summary["accuracy"]["best_on_test"] == best["test"]["accuracy"]
    assert summary["accuracy"]["best_epoch"] == best["epoch"]
    assert 0 < sum(line["seconds"] for line in run.metrics) <= summary["seconds"] + 1e-6
    assert summary["images_per_second"] > 0


def test_lines_of_metrics(tmp_path):
    run = trained(tmp_path, method="ldam-drw")
    for number, line in enumerate(run.metrics, 1):
        assert list(line) == [
            *("epoch", "phase", "lr", "train", "test", "validation", "seconds", "images_per_second"),
        ]
        assert line["epoch"] == number
        assert list(line["train"]) == ["loss", "accuracy", "head", "middle", "tail"]
        assert set(line["test"]) == {"accuracy", "head", "middle", "tail", "per_class"}
    assert [line["phase"] for line in run.metrics] == ["ldam", "ldam, re-weighted"]


def test_the_recipe_of_a_run_is_a_recipe_of_the_same_run(tmp_path):
    run = trained(tmp_path, method="ffds", seed=2)
    again = train(str(run.path / "recipe.yaml"), out=tmp_path, shown=False)
    assert again.path == run.path


def test_a_finished_run_is_not_trained_again(tmp_path, monkeypatch):
    run = trained(tmp_path, method="ce")
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    monkeypatch.setattr("ffds.training.train.launch_fabric", lambda trainer: pytest.fail("trains again"))
    assert trained(tmp_path, method="ce").path == run.path
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before


def test_one_directory_for_each_run(tmp_path):
    paths = {
        trained(tmp_path, method="ce").path,
        trained(tmp_path, method="ce", seed=1).path,
        trained(tmp_path, method="fl").path,
        trained(tmp_path, method="ce", overrides={"optimizer.lr": 0.01}).path,
        trained(tmp_path / "other", method="ce").path,
        trained(tmp_path, method="ce", seed=0).path,
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


def test_deterministic_kernels_are_asked_for_and_put_back(tmp_path, monkeypatch):
    seen = []

    class Asking(nn.CrossEntropyLoss):
        def forward(self, logits, target):
            seen.append(torch.are_deterministic_algorithms_enabled())
            return super().forward(logits, target)

    monkeypatch.setattr("torch.nn.CrossEntropyLoss", Asking)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    trained(tmp_path, method="ce", overrides={"trainer.deterministic": True})
    assert set(seen) == {True}
    assert not torch.are_deterministic_algorithms_enabled()
    trained(tmp_path, method="ce")
    assert seen[-1] is False
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        trained(tmp_path, method="ce", seed=1, overrides={"trainer.deterministic": True})
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_what_it_says(tmp_path, capsys):
    train("digits", method="ce", out=tmp_path, overrides=OVERRIDES)
    told = capsys.readouterr()
    assert told.out == ""
    assert [line.split(",")[0] for line in told.err.splitlines()] == [
        "digits ce seed 0: 2 epochs of 3 steps",
        "epoch 1/2 cross-entropy",
        "epoch 2/2 cross-entropy",
    ]
    trained(tmp_path, method="ce", seed=1)
    assert capsys.readouterr() == ("", "")


def test_values_of_every_kind_as_overrides(tmp_path):
    given = {"optimizer.lr": 1e-30, "data.mean": [0.25], "trainer.precision": "bf16", "model.head": "cosine"}
    recipe = trained(tmp_path, method="ce", overrides=given | {"data.cut": None}).recipe
    assert (recipe.optimizer.lr, recipe.data.mean, recipe.data.cut) == (1e-30, (0.25,), None)
    assert (recipe.trainer.precision, recipe.model.head) == ("bf16", "cosine")


@pytest.mark.parametrize("given", [{"overrides": {"schedule.epocs": 3}}, {"method": "fffds"}, {"seed": -1}])
def test_a_slip_is_an_input_error(given, tmp_path):
    with pytest.raises(InputError):
        trained(tmp_path, **given)
    assert not list(tmp_path.iterdir())


def test_two_at_once_are_refused(tmp_path):
    recipe = tiny.recipe()
    run = Run.of(recipe, tmp_path)
    with run.locked(), pytest.raises(InputError, match="another process is training this run"):
        train_recipe(recipe, out=tmp_path, shown=False)
    train_recipe(recipe, out=tmp_path, shown=False)
    assert run.done


# A loss of your own


def test_a_loss_of_your_own(tmp_path):
    """Equal to the method it is."""
    run = trained(tmp_path, loss=FocalLoss(2.0))
    assert run.summary["method"] == "custom"
    assert run.path.parent.name == "custom"
    twin = trained(tmp_path, method="fl", overrides={"method.gamma": 2.0})
    ours, theirs = tiny.trace(run), tiny.trace(twin)
    weights = [name for name in ours if name.startswith("model ")]
    assert weights
    assert all(ours[name] == theirs[name] for name in weights)


def test_the_settings_of_a_loss_are_part_of_its_identity(tmp_path):
    counts = tiny.COUNTS
    losses = [
        FocalLoss(1.0),
        FocalLoss(1.0, weight=torch.ones(10)),
        FocalLoss(1.0, weight=torch.arange(1.0, 11)),
        FFDSLoss(counts, num_groups=3),
        FFDSLoss(counts, num_groups=3, gamma_max=2.0),
        FFDSLoss(counts, num_groups=3, weight_scale="none"),
    ]
    once = {"schedule.epochs": 1}
    paths = [trained(tmp_path, loss=loss, overrides=once).path for loss in losses]
    assert len(set(paths)) == len(losses)
    assert trained(tmp_path, loss=FFDSLoss(counts, num_groups=3), overrides=once).path == paths[3]


def test_a_setting_outside_the_repr_is_part_of_the_identity():
    class Mixed(nn.Module):
        def __init__(self, margin, kinds=("a", 1.0)):
            super().__init__()
            self.inner = nn.MultiMarginLoss(margin=margin)
            self.kinds = kinds

    makers = [
        nn.CrossEntropyLoss,
        partial(nn.CrossEntropyLoss, label_smoothing=0.9),
        partial(nn.CrossEntropyLoss, reduction="sum"),
        partial(nn.MultiMarginLoss, margin=1.0),
        partial(nn.MultiMarginLoss, margin=5.0),
        partial(Mixed, 1.0),
        partial(Mixed, 5.0),
        partial(Mixed, 5.0, ("a", 2.0)),
        partial(Mixed, 5.0, None),
    ]
    assert len({loss_identity(make()) for make in makers}) == len(makers)
    assert [loss_identity(make()) for make in makers] == [loss_identity(make().eval()) for make in makers]


def test_what_a_loss_of_the_package_keeps_beside_its_repr_is_no_setting():
    loss = FocalLoss(1.0)
    before = loss_identity(loss)
    loss.steps = 3
    assert loss_identity(loss) == before


class Plain:
    """A setting without a repr of its own."""


def test_an_address_is_no_part_of_the_identity(tmp_path):
    class Loss(nn.CrossEntropyLoss):
        def __init__(self):
            super().__init__()
            self.setting = Plain()

        def extra_repr(self):
            return f"setting={self.setting!r}"

    first, second = Loss(), Loss()
    assert repr(first) != repr(second)
    assert trained(tmp_path, loss=first).path == trained(tmp_path, loss=second).path


def test_the_same_loss_object_goes_on(tmp_path, monkeypatch):
    loss = FFDSLoss(tiny.COUNTS, num_groups=3)
    tiny.stop_after(monkeypatch, tiny.POLLS + 2)
    with pytest.raises(Interrupted):
        trained(tmp_path, loss=loss)
    assert loss.group_means.isnan().all(), "a copy is trained"
    trained(tmp_path, loss=loss)
    (run,) = (tmp_path / "digits" / "custom").iterdir()
    assert Run(run).done


def test_a_method_and_a_loss_exclude_each_other(tmp_path):
    with pytest.raises(InputError, match="exclude each other"):
        trained(tmp_path, method="ce", loss=FocalLoss())


def test_a_custom_recipe_without_its_loss(tmp_path):
    run = trained(tmp_path, loss=FocalLoss())
    with pytest.raises(InputError, match="custom has no loss"):
        train(str(run.path / "recipe.yaml"), out=tmp_path / "other", shown=False)


def test_environment_of_the_run(tmp_path):
    found = json.loads((trained(tmp_path, method="ce").path / "environment.json").read_text())
    assert found.keys() == {"hardware", "versions", "commit", "command"}
    assert found["versions"]["torch"] == torch.__version__.split("+")[0]
