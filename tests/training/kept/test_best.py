"""The best epoch is chosen on validation alone, outlives kills and pruning, and is what a run gives."""

import shutil
from contextlib import suppress
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from ffds.cli import main
from ffds.errors import InputError, Interrupted
from ffds.evaluation.measures import MEASURES
from ffds.inference.load import train_probabilities
from ffds.inference.network import kept_checkpoint
from ffds.recipes.pretrained import weights_file
from ffds.reports.finished import FinishedRun
from ffds.reports.page import run_page
from ffds.reports.run_records import run_record
from ffds.run_contents import kept_path
from ffds.run_directory import Run
from ffds.training.checkpoint import Checkpoints
from ffds.training.evaluate import evaluate
from ffds.training.kept.best import BestEpoch
from ffds.training.state import Reached
from tests.training import tiny

BY_NAME = {measure.name: measure for measure in MEASURES}
EPOCHS = 6
KEEP = ("trainer.keep=best", f"schedule.epochs={EPOCHS}", "trainer.ema=0.5", "trainer.seed=3")


@pytest.mark.parametrize(
    ("by", "start", "values", "best", "stopped"),
    [
        ("accuracy", 0, [50, 60, 60, None, 55], 2, 5),
        ("ece", 0, [9, 4, 4, 3, 7], 4, None),
        ("tail", 2, [90, 80, 0, 0, 10], 5, None),
        ("tail", 1, [90, 50, 40, 30, 20], 2, 5),
        ("accuracy", 1, [90, None, None, None, None], None, 4),
    ],
)
def test_the_first_best_epoch_of_the_last_phase_and_when_patience_ends(by, start, values, best, stopped):
    choice, reached, ends = BestEpoch(BY_NAME[by], True, 3, start), Reached(), []
    for epoch, value in enumerate(values, start=1):
        reached.epoch = epoch
        choice.consider(reached, SimpleNamespace(measures={by: value}))
        ends += [epoch] if choice.exhausted(reached) else []
    assert reached.kept_epoch == reached.best_validation_epoch == best
    assert (ends or [None])[0] == stopped


def best_of(run, by="balanced_accuracy", start=0):
    """The epoch with the best measure on validation, found by reading the metrics."""
    lines = [line for line in run.metrics[start:] if line["validation"] is not None]
    return max(lines, key=lambda line: (line["validation"][by], -line["epoch"]))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A finished run that keeps an epoch before the last ones, and its images."""
    images, recipe = tiny.dataset(validation=True), tiny.recipe(*KEEP, method="ce")
    return recipe, images, tiny.train(recipe, tmp_path_factory.mktemp("kept"), images=images)


def test_all_that_a_run_gives_is_of_the_kept_epoch(kept, tmp_path):
    recipe, images, run = kept
    best, summary = best_of(run), run.summary
    assert best["epoch"] < EPOCHS - 1, "else this shows nothing"
    value = best["validation"]["balanced_accuracy"]
    assert summary["kept"] == {"epoch": best["epoch"], "by": "balanced_accuracy", "validation": value}
    assert summary["accuracy"]["last"] == run.metrics[-1]["test"]["accuracy"]
    assert summary["accuracy"]["kept"] == best["test"]["accuracy"]
    assert summary["tail"] == best["test"]["tail"]
    assert summary["validation"] == {name: best["validation"][name] for name in BY_NAME}
    run.check()
    assert FinishedRun.read(run).scores.accuracy == pytest.approx(summary["accuracy"]["kept"])
    record = run_record(run)
    assert (record.accuracy_last, record.epochs) == (summary["accuracy"]["last"], EPOCHS)
    assert record.measures["tail"] == run.metrics[-1]["test"]["tail"]
    names = sorted(path.name for path in run.checkpoints.iterdir())
    assert names == [f"epoch-{epoch:04d}" for epoch in (best["epoch"], EPOCHS - 1, EPOCHS)]
    loop = tiny.loop(tmp_path, recipe, images=images)
    loop.state.model.load_state_dict(kept_checkpoint(run).model)
    _, predictions = evaluate(loop.fabric, loop.state.model, loop.test, tiny.COUNTS, None)
    written = pq.read_table(run.predictions)["confidence"].to_pylist()
    assert predictions.confidence.tolist() == written


def test_whoever_takes_the_weights_of_a_run_takes_the_kept_ones(kept, tmp_path, monkeypatch):
    """A new run that begins with them, its page, and what cleaning leaves."""
    _, images, run = kept
    best = run.summary["kept"]["epoch"]
    model = run.checkpoints / f"epoch-{best:04d}" / "model.safetensors"
    assert kept_path(run.checkpoints) == model.parent
    assert weights_file(str(run.path)) == model
    weights = tiny.recipe(f"model.weights={run.path}", method="ce")
    began = tiny.loop(tmp_path / "new", weights, images=images).state.model.state_dict()
    assert all(torch.equal(began[name], tensor) for name, tensor in load_file(model).items())
    shown = []
    parameter = Checkpoints.parameter
    monkeypatch.setattr(Checkpoints, "parameter", lambda *given: shown.append(given[1]) or parameter(*given))
    page = run_page(FinishedRun.read(run), images.test)
    assert (shown, page["norms"] is not None) == ([best], True)
    assert page["kept"].startswith(f"The results are those of epoch {best}, whose network is kept")
    assert all(">kept</text>" in one["chart"] for one in page["curves"])
    copy = Run(tmp_path / "runs" / run.path.relative_to(run.path.parents[2]))
    shutil.copytree(run.path, copy.path)
    assert main(["runs", "clean", "--yes", "--out", str(tmp_path / "runs")]) == 0
    assert sorted(path.name for path in copy.checkpoints.iterdir()) == [
        f"epoch-{epoch:04d}" for epoch in (best, EPOCHS)
    ]
    left = kept_checkpoint(copy).model
    assert all(torch.equal(left[name], tensor) for name, tensor in load_file(model).items())


def test_the_probabilities_of_training_images_are_of_the_kept_epoch(tmp_path, monkeypatch):
    """With the group means that the loss had then."""
    images = tiny.dataset(validation=True)
    tiny.use(monkeypatch, images)
    run = tiny.train(tiny.recipe(*KEEP, method="ffds"), tmp_path, images=images)
    best = run.summary["kept"]["epoch"]
    assert best < EPOCHS, "else this shows nothing"
    loss = load_file(run.checkpoints / f"epoch-{best:04d}" / "loss.safetensors")
    (means,) = (value for name, value in loss.items() if name.endswith("group_means"))
    assert train_probabilities(run).group_means.tolist() == means.double().tolist()


@pytest.mark.parametrize("every", [1, 4])
def test_stopped_anywhere_it_ends_the_same_and_loses_nothing(every, kept, tmp_path):
    """Also in the evaluation of what is kept, which does not become what is trained."""
    _, images, whole = kept
    recipe = tiny.recipe(*KEEP, f"trainer.checkpoint_every={every}", method="ce")
    for _ in range(100):
        with suppress(Interrupted):
            run = tiny.train(recipe, tmp_path, polls=4, images=images)
            break
        saved = Checkpoints(Run.of(recipe, tmp_path).checkpoints)
        epoch = saved.latest().state["reached"]["kept_epoch"]
        assert epoch is None or saved.at(epoch).state["reached"]["kept_epoch"] == epoch
    trace = tiny.trace(run)
    assert trace == tiny.trace(whole)


def test_a_run_killed_before_its_results_gives_them_from_its_checkpoints(kept, tmp_path):
    recipe, images, whole = kept
    run = Run.of(recipe, tmp_path)
    shutil.copytree(whole.path, run.path)
    (run.path / "summary.json").unlink()
    tiny.train(recipe, tmp_path, images=images)
    assert tiny.trace(run) == tiny.trace(whole)
    shutil.rmtree(run.checkpoints / f"epoch-{whole.summary['kept']['epoch']:04d}")
    with pytest.raises(InputError, match="checkpoint is broken"):
        kept_checkpoint(run)


def test_stopped_early_is_done(kept, tmp_path):
    _, images, whole = kept
    best = best_of(whole)["epoch"]
    recipe = tiny.recipe(*KEEP, "trainer.patience=1", method="ce")
    run = tiny.train(recipe, tmp_path, images=images)
    epochs = len(run.metrics)
    assert epochs < EPOCHS
    assert run.summary["epochs"] == epochs == run.summary["kept"]["epoch"] + 1
    assert run.summary["kept"]["epoch"] <= best
    run.check()
    assert run_record(run).epochs == EPOCHS
    assert sorted(run.checkpoints.iterdir())[-1].name == f"epoch-{epochs:04d}"
    for line, other in zip(run.metrics, whole.metrics, strict=False):
        assert line["validation"] == other["validation"]
    again = tiny.train(recipe, tmp_path, images=images)
    assert again.summary == run.summary


def test_the_test_set_chooses_nothing(kept, tmp_path):
    recipe = kept[0]
    with pytest.raises(InputError, match=r"needs validation images(?s:.)*data\.validation=0\.1"):
        tiny.train(recipe, tmp_path)
    assert not list(tmp_path.rglob("recipe.yaml"))
    few = tiny.recipe(*KEEP, "trainer.best_by=many", method="ce")
    with pytest.raises(InputError, match="no validation image is of a class that many is about"):
        tiny.train(few, tmp_path, images=tiny.dataset(validation=True))
