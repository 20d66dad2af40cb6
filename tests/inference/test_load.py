"""A finished run, put to work again."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from ffds.data.dataset import Split
from ffds.errors import InputError, Interrupted
from ffds.inference.load import evaluate_run, train_probabilities
from ffds.losses.ffds import frequency_groups
from ffds.run_directory import Run
from ffds.training.train import train
from tests.training import tiny


@pytest.fixture(scope="module")
def ldam(tmp_path_factory):
    """A run with a cosine head, without channels-last, on the real digits and with results above chance."""
    settings = {"schedule.epochs": 3, "trainer.channels_last": False, "trainer.batch_size": 16}
    out = tmp_path_factory.mktemp("ldam")
    return train("digits", method="ldam", overrides=settings, out=out, shown=False)


def test_the_same_scores_as_in_the_summary(ldam, tmp_path):
    scores, predictions = evaluate_run(ldam)
    assert scores.accuracy > 12, "more than a network that knows one class"
    summary = ldam.summary | {"accuracy": ldam.summary["accuracy"]["last"]}
    assert scores.measures.items() <= summary.items()
    assert scores.per_class == ldam.metrics[-1]["test"]["per_class"]
    predictions.write(again := tmp_path / "again.parquet")
    assert pq.read_table(again).equals(pq.read_table(ldam.predictions))


def test_the_run_is_left_as_it_was(ldam):
    before = {path: path.stat().st_mtime_ns for path in ldam.path.rglob("*")}
    state = torch.get_rng_state()
    evaluate_run(ldam)
    assert {path: path.stat().st_mtime_ns for path in ldam.path.rglob("*")} == before
    assert torch.equal(torch.get_rng_state(), state)


def test_other_data_of_the_same_classes(ldam, monkeypatch):
    tiny.use(monkeypatch, tiny.dataset([4] * 10, of_test=3))
    scores, predictions = evaluate_run(ldam, ["data.root=elsewhere"])
    assert len(predictions.index) == 30
    assert scores.accuracy != ldam.summary["accuracy"]["last"]


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        (["data.seed=5"], "trained on(.|\n)*data.seed=5"),
        (["data.test_fraction=0.5"], "trained on(.|\n)*data.test_fraction=0.5"),
        (["data.validation=0.1"], "trained on(.|\n)*data.validation=0.1"),
        (["data.seed = 5"], "trained on(.|\n)*data.seed = 5"),
        ([], "changed since"),
        *(
            (["data.seed=5", text], f"cannot be changed\n +got: +{text}\n")
            for text in ("optimizer.lr=0.5", "method=ce", "model.name=resnet20", "schedule.epochs=9")
        ),
    ],
)
def test_whatever_would_test_on_images_that_were_trained_on_or_change_the_network_is_refused(
    overrides, what, ldam, monkeypatch
):
    tiny.use(monkeypatch, tiny.dataset([4] * 10))
    with pytest.raises(InputError, match=what):
        evaluate_run(ldam, overrides)


def test_classes_are_compared_by_name_unless_they_are_mere_numbers(d_ffds, tmp_path, monkeypatch):
    _, run = d_ffds
    images, last = tiny.dataset(), run.summary["accuracy"]["last"]
    names = tuple("abcdefghij"[: images.num_classes])
    tiny.use(monkeypatch, replace(images, class_names=names))
    assert evaluate_run(run, ["data.root=elsewhere"])[0].accuracy == last
    run = Run(Path(shutil.copytree(run.path, tmp_path / "copy")))
    (manifest,) = run.checkpoints.glob(f"epoch-{tiny.EPOCHS:04d}/manifest.json")
    named = json.loads(manifest.read_text())
    del named["sha256"]
    named["identity"]["class_names"] = list(names)
    manifest.write_text(json.dumps(named))
    turned = Split(images.test.images, len(names) - 1 - images.test.labels)
    tiny.use(monkeypatch, replace(images, class_names=names[::-1], test=turned))
    assert evaluate_run(run, ["data.root=elsewhere"])[0].accuracy == last, "in another order"
    tiny.use(monkeypatch, replace(images, class_names=(*names[:-1], "jj")))
    with pytest.raises(InputError, match=r"class 'jj' is no class(.|\n)*did you mean j\?"):
        evaluate_run(run, ["data.root=elsewhere"])


def test_groups_are_those_of_the_training_data(ldam):
    """Head, middle and tail stay, though the data are now balanced."""
    scores, _ = evaluate_run(ldam, ["data.imbalance_factor=null"])
    for group in ("head", "tail"):
        assert scores.measures[group] == ldam.summary[group]


@pytest.mark.parametrize("load", [evaluate_run, train_probabilities])
@pytest.mark.parametrize("images", [tiny.dataset([9, 5, 3, 2]), tiny.dataset([*tiny.COUNTS[:-1], 1])])
def test_other_images_are_refused(images, load, d_ffds, monkeypatch):
    tiny.use(monkeypatch, images)
    with pytest.raises(InputError, match=r"changed since(.|\n)*training images \w{16} now, \w{16} then"):
        load(d_ffds[1])


def test_other_test_images_are_refused(d_ffds, monkeypatch):
    tiny.use(monkeypatch, tiny.dataset(of_test=3))
    with pytest.raises(InputError, match=r"changed since(.|\n)*got: +test images \w{16} now, \w{16} then"):
        evaluate_run(d_ffds[1], ["data.in_memory=true"])


def test_a_new_name_for_the_place_of_the_same_images_allows_no_other_split(ldam):
    with pytest.raises(InputError, match="images that were trained on"):
        evaluate_run(ldam, ["data.root=elsewhere", "data.seed = 5"])


def test_an_unfinished_run_gives_its_newest_state_if_it_has_one(tmp_path, monkeypatch):
    tiny.use(monkeypatch)
    with pytest.raises(Interrupted):
        tiny.train(tiny.recipe(), tmp_path, polls=tiny.POLLS + 1)
    run = Run.of(tiny.recipe(), tmp_path)
    assert len(evaluate_run(run).scores.per_class) == 10
    shutil.rmtree(run.checkpoints)
    with pytest.raises(InputError, match="no checkpoint yet"):
        evaluate_run(run)


def test_a_broken_newest_checkpoint_is_skipped_and_one_of_another_network_refused(ldam, tmp_path, capsys):
    run = Run(Path(shutil.copytree(ldam.path, tmp_path / "copy")))
    (run.checkpoints / "epoch-0003" / "model.safetensors").write_bytes(b"")
    scores, _ = evaluate_run(run)
    assert scores.accuracy == ldam.metrics[1]["test"]["accuracy"]
    assert "epoch-0003 is broken" in capsys.readouterr().err
    recipe = run.path / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("name: resnet20", "name: resnet32"))
    with pytest.raises(InputError, match="does not fit the network"):
        evaluate_run(run)


def test_a_run_of_a_loss_of_your_own(tmp_path, monkeypatch):
    tiny.use(monkeypatch)
    overrides = {"schedule.epochs": 1, "trainer.batch_size": 32}
    run = train("digits", loss=torch.nn.CrossEntropyLoss(), overrides=overrides, out=tmp_path, shown=False)
    assert evaluate_run(run).scores.accuracy == run.summary["accuracy"]["last"]


def test_train_probabilities(d_ffds, monkeypatch):
    """Of the training images without augmentation, with the group means of the last epoch."""
    _, run = d_ffds
    images = tiny.dataset()
    tiny.use(monkeypatch, images)
    found = train_probabilities(run)
    tiny.use(monkeypatch, replace(images, test=images.train))
    scored = evaluate_run(run, ["data.root=elsewhere"]).predictions
    assert found.probability.tolist() == scored.label_probability.tolist()
    groups = frequency_groups(tiny.COUNTS, run.recipe.method.num_groups)
    assert found.group.tolist() == groups[torch.from_numpy(images.train.labels)].tolist()
    stored = load_file(run.checkpoints / f"epoch-{tiny.EPOCHS:04d}" / "loss.safetensors")
    assert found.group_means.tolist() == stored["rank0.1.group_means"].tolist()
    assert len(found.group_means) == run.recipe.method.num_groups
    assert all(0 < mean < 1 for mean in found.group_means)


def test_train_probabilities_need_a_loss_with_group_means(ldam):
    with pytest.raises(InputError, match=r"no group means(.|\n)*got: +ldam\n +allowed: ffds, d-ffds"):
        train_probabilities(ldam)
