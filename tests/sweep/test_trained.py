"""Sweeps that really train: the common epochs once, no influence of the test set, killed workers."""

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest

from ffds.cli import main
from ffds.data.dataset import Split
from ffds.errors import InputError
from ffds.jobs.options import Jobs
from ffds.run_directory import Run
from ffds.sweep.search import sweep
from ffds.training.train import train_recipe
from tests import killed
from tests.sweep import made
from tests.training import processes, tiny

SETTINGS = (
    *("model.name=resnet8", "schedule.epochs=6", "schedule.warmup=0", "method.start=0.5"),
    *("optimizer.lr=0.05", "trainer.batch_size=16"),
)
START, EPOCHS, STEPS, TRIALS = 3, 6, 6, 6


def swept(out, *, trials=TRIALS):
    return sweep("digits", SETTINGS, trials=trials, out=out, shown=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sweep that nothing interrupted, and the epoch of each of its steps."""
    with pytest.MonkeyPatch.context() as patch:
        made.images(patch)
        steps = tiny.steps_taken(patch)
        return swept(tmp_path_factory.mktemp("whole")), steps


def test_the_common_epochs_are_trained_once(whole):
    found, steps = whole
    assert {one.result for one in found.trials} == {"finished", "stopped early"}
    assert len({one.score for one in found.trials}) > 1
    own = sum(one.epoch - START for one in found.trials)
    assert len(steps) == STEPS * (START + own)
    assert sum(epoch < START for epoch in steps) == STEPS * START


def test_a_trial_is_bit_equal_to_the_same_run_alone_and_its_score_is_of_the_last_epoch(whole, tmp_path):
    best = whole[0].best
    run = Run(best.run)
    alone = train_recipe(run.recipe, out=tmp_path, shown=False, dataset=tiny.dataset(validation=True))
    assert tiny.trace(alone) == tiny.trace(run)
    last = run.metrics[-1]
    assert last["epoch"] == best.epoch == EPOCHS
    assert best.score == np.mean(last["validation"]["per_class"])


def test_the_test_set_has_no_influence(whole, tmp_path, monkeypatch):
    images = tiny.dataset(validation=True)
    wrong = Split(255 - images.test.images, np.roll(images.test.labels, 7))
    monkeypatch.setattr("ffds.sweep.search.open_dataset", lambda data: replace(images, test=wrong))
    found, _ = whole
    other = swept(tmp_path)
    assert made.outcome(other) == made.outcome(found)
    assert other.best.settings == found.best.settings
    assert other.importance == found.importance
    ours, theirs = (Run(one.best.run).metrics for one in (found, other))
    assert [entry["validation"] for entry in ours] == [entry["validation"] for entry in theirs]
    assert [entry["test"] for entry in ours] != [entry["test"] for entry in theirs], "they were other images"


# Real processes


def work(out):
    with pytest.MonkeyPatch.context() as patch:
        made.images(patch)
        swept(out)


def command(out, *options):
    """The command on real digits, in a process of its own."""
    images = ("data.imbalance_factor=50", "trainer.batch_size=128")
    return main(["sweep", "digits", *SETTINGS, *images, "--trials", "3", "--out", str(out), *options])


def test_two_jobs_share_the_common_epochs_and_one_goes_on_after_a_signal(tmp_path):
    process = processes.forked(command, tmp_path, "--jobs", "2", log=tmp_path / "log")
    processes.wait_for(lambda: list(tmp_path.glob("digits/d-ffds/*/checkpoints/epoch-0004")), process)
    os.kill(process.pid, signal.SIGTERM)
    assert processes.exit_code(process) == 75, (tmp_path / "log").read_text()
    assert command(tmp_path) == 0
    runs = [Run(path) for path in tmp_path.glob("digits/d-ffds/*")]
    assert len(runs) == 3
    assert all(run.done for run in runs)
    begun = {tuple(map(json.dumps, run.metrics[:START])) for run in runs}
    assert len(begun) == 1, "the times of the common epochs too are those of the one training"


def test_a_trial_that_stops_early_has_the_score_of_its_last_epoch(tmp_path, monkeypatch):
    made.images(monkeypatch)
    never_better = ("optimizer.lr=1e-30", "trainer.patience=1")
    found = sweep("digits", [*SETTINGS, *never_better], trials=1, out=tmp_path, shown=False)
    (trial,) = found.trials
    lines = Run(trial.run).metrics
    assert len(lines) < EPOCHS
    assert trial.score == pytest.approx(np.mean(lines[-1]["validation"]["per_class"]))


def test_jobs_that_cannot_be_had_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(InputError, match="no such GPU"):
        sweep("digits", SETTINGS, trials=2, out=tmp_path, jobs=Jobs(1, (0,)))
    assert list(tmp_path.iterdir()) == []


KILLS = {
    "before the common epochs are left": ("ffds.training.trajectory", "Trajectory.save_shared", 1),
    "in an epoch of the second trial": ("ffds.training.step", "TrainStep.__call__", (EPOCHS + 1) * STEPS + 2),
}


@pytest.mark.parametrize("kill", KILLS)
def test_sigkill_and_the_same_command_goes_on(kill, whole, tmp_path, monkeypatch):
    process = processes.forked(killed.until, work, tmp_path, *KILLS[kill], "before", log=tmp_path / "log")
    assert processes.exit_code(process) == -signal.SIGKILL, (tmp_path / "log").read_text()
    made.images(monkeypatch)
    found, expected = swept(tmp_path, trials=2), whole[0]
    assert made.outcome(found) == made.outcome(expected)[:2]
    for one, other in zip(found.trials, expected.trials, strict=False):
        assert tiny.trace(Run(one.run)) == tiny.trace(Run(other.run))
