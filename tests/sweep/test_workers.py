"""A sweep in several processes of one command, on real digits."""

import json
import os
import signal

import pytest

from ffds.cli import main
from ffds.errors import InputError, NonFiniteLossError
from ffds.jobs.jobs import Jobs
from ffds.run_directory import Run
from ffds.sweep.search import sweep
from tests.training import processes

START, EPOCHS, TRIALS = 3, 6, 3
SETTINGS = (
    *("model.name=resnet20", f"schedule.epochs={EPOCHS}", "schedule.warmup=0", "method.start=0.5"),
    *("data.imbalance_factor=50", "optimizer.lr=0.05"),
)


def work(out):
    return main(["sweep", "digits", *SETTINGS, "--trials", str(TRIALS), "--jobs", "2", "--out", str(out)])


def test_a_signal_saves_everything_and_any_number_of_jobs_goes_on(tmp_path):
    command = processes.forked(work, tmp_path, log=tmp_path / "log")
    processes.wait_for(lambda: list(tmp_path.glob("digits/d-ffds/*/checkpoints/epoch-0001")), command)
    os.kill(command.pid, signal.SIGTERM)
    assert processes.exit_code(command) == 75, (tmp_path / "log").read_text()
    found = sweep("digits", SETTINGS, trials=TRIALS, out=tmp_path, shown=False)
    assert {one.result for one in found.trials} == {"finished"}
    assert len({one.run for one in found.trials}) == TRIALS
    begun = {tuple(map(json.dumps, Run(one.run).metrics[:START])) for one in found.trials}
    assert len(begun) == 1, "the common epochs are those of the one training"
    assert not list(tmp_path.glob("digits/sweep/worker-*"))


def test_a_failure_of_the_common_epochs_ends_it(tmp_path, capfd):
    with pytest.raises(NonFiniteLossError, match="not finite in epoch 1"):
        sweep("digits", [*SETTINGS, "optimizer.lr=1e30"], trials=2, out=tmp_path, jobs=Jobs(2))
    assert "Traceback" not in capfd.readouterr().err


def test_jobs_that_cannot_be_had_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(InputError, match="no such GPU"):
        sweep("digits", SETTINGS, trials=2, out=tmp_path, jobs=Jobs(1, (0,)))
    assert list(tmp_path.iterdir()) == []
