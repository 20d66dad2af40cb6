"""Several runs at a time in processes of one command, really killed; on real digits."""

import json
import os
import re
import signal
from pathlib import Path

import pytest

from ffds.environment import environment
from ffds.errors import FfdsError, InputError, Interrupted, NonFiniteLossError
from ffds.jobs import several
from ffds.jobs.jobs import ALONE, Jobs
from ffds.jobs.several import train_all
from ffds.recipes.schedule import start_epoch
from ffds.run_directory import Run
from tests.training import processes, tiny

EPOCHS = 8
SETTINGS = (f"schedule.epochs={EPOCHS}", "data.imbalance_factor=100", "trainer.batch_size=128")
TWO = Jobs(2)


def recipe(*overrides, method):
    return tiny.recipe(*SETTINGS, *overrides, method=method)


CE, DEFERRED = recipe(method="ce"), recipe(method="d-ffds")
START = start_epoch(DEFERRED.method, EPOCHS)


@pytest.fixture(scope="module")
def one_after_the_other(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    assert train_all([CE, DEFERRED], out=out, shown=False) == {}
    return [tiny.trace(Run.of(one, out)) for one in (CE, DEFERRED)]


def traces(out):
    return [tiny.trace(Run.of(one, out)) for one in (CE, DEFERRED)]


def work(out):
    """The command, in a process of its own."""
    try:
        failures = train_all([CE, DEFERRED], out=out, jobs=TWO)
    except Interrupted as error:
        print(error, flush=True)
        return error.exit_code
    return 1 if failures else 0


def holder(run):
    """The process that trains a run."""
    found = re.match(r"pid (\d+) on", (run.path / "lock").read_text())
    assert found
    return int(found[1])


def begun(run):
    return (run.checkpoints / "epoch-0001").exists


def test_two_jobs_give_the_same_bits_and_train_each_epoch_once(tmp_path, one_after_the_other, capfd):
    assert train_all([CE, DEFERRED], out=tmp_path, jobs=TWO) == {}
    assert traces(tmp_path) == one_after_the_other
    runs = [Run.of(one, tmp_path) for one in (CE, DEFERRED)]
    # Each epoch took a time of its own.
    assert len({json.dumps(line) for run in runs for line in run.metrics}) == EPOCHS + EPOCHS - START
    assert holder(runs[0]) != os.getpid()
    assert {run.environment["command"] for run in runs} == {environment()["command"]}, "as it was typed"
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == f"plan: 2 runs, 16 epochs: 0 done, {START} shared, {16 - START} to train"
    ce, deferred = ("/".join(run.path.parts[-3:]) for run in runs)
    assert len([line for line in lines if line.startswith(f"{ce}: epoch ")]) == EPOCHS
    assert len([line for line in lines if line.startswith(f"{deferred}: epoch ")]) == EPOCHS - START
    assert sum("sharing the history of another run" in line for line in lines) == 1
    assert not [line for line in lines if line.startswith("epoch ")]
    # What is done starts no process.
    assert train_all([CE, DEFERRED], out=tmp_path, jobs=TWO, shown=False) == {}
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("number", "told"),
    [(signal.SIGKILL, "was ended by SIGKILL"), (signal.SIGTERM, "was stopped by a signal")],
)
def test_a_process_that_is_ended_leaves_a_gap_and_the_same_call_goes_on(
    number, told, tmp_path, one_after_the_other
):
    """The other process trains the common epochs instead, and D-FFDS to its end."""
    ce, deferred = (Run.of(one, tmp_path) for one in (CE, DEFERRED))
    command = processes.forked(work, tmp_path, log=tmp_path / "log")
    processes.wait_for(begun(ce), command)
    os.kill(holder(ce), number)
    assert processes.exit_code(command) == 1
    text = (tmp_path / "log").read_text()
    assert f"failed: {ce.path}: the process that trained it {told}; {several._GOES_ON}" in text
    assert deferred.done
    assert not ce.done
    assert train_all([CE, DEFERRED], out=tmp_path, shown=False) == {}
    assert traces(tmp_path) == one_after_the_other


def test_a_signal_to_the_command_saves_everything(tmp_path, one_after_the_other):
    ce = Run.of(CE, tmp_path)
    command = processes.forked(work, tmp_path, log=tmp_path / "log")
    processes.wait_for(begun(ce), command)
    worker = holder(ce)
    os.kill(command.pid, signal.SIGINT)
    assert processes.exit_code(command) == 75, (tmp_path / "log").read_text()
    text = (tmp_path / "log").read_text()
    assert f"{'/'.join(ce.path.parts[-3:])}: SIGTERM: state saved after epoch" in text
    assert "SIGINT: state of 2 runs saved; the same command goes on" in text
    assert not Path(f"/proc/{worker}").exists()
    assert train_all([CE, DEFERRED], out=tmp_path, shown=False) == {}
    assert traces(tmp_path) == one_after_the_other


def test_failures_are_gaps_and_come_back_as_errors(tmp_path, one_after_the_other, capfd):
    diverging = recipe("optimizer.lr=1e30", method="fl")
    nowhere = recipe("data.name=folder", f"data.root={tmp_path / 'none'}", method="fl")
    failures = train_all([diverging, nowhere, CE], out=tmp_path, jobs=TWO, shown=False)
    assert {path: type(error) for path, error in failures.items()} == {
        Run.of(diverging, tmp_path).path: NonFiniteLossError,
        Run.of(nowhere, tmp_path).path: InputError,
    }
    assert tiny.trace(Run.of(CE, tmp_path)) == one_after_the_other[0]
    err = capfd.readouterr().err
    assert err.count("loss or gradient is not finite") == 1
    assert err.count("failed: ") == 2
    assert "epoch 1/" not in err, "nothing else is to be shown"


def test_when_every_process_dies_the_rest_is_told(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "sitecustomize.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n")
    failures = train_all([CE, DEFERRED], out=tmp_path / "runs", jobs=TWO, shown=False)
    assert {str(error) for error in failures.values()} == {f"no process was left for it; {several._GOES_ON}"}
    assert {type(error) for error in failures.values()} == {FfdsError}
    assert capfd.readouterr().err.count("failed: ") == 1


def test_a_device_that_is_not_there_is_refused_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(InputError, match="no such GPU"):
        train_all([CE], out=tmp_path, jobs=Jobs(1, (0,)))
    assert list(tmp_path.iterdir()) == []


def test_several_ranks_take_the_runs_in_order(tmp_path, monkeypatch):
    """They have to do the same at the same time, and so none of them waits."""
    tiny.use(monkeypatch)
    monkeypatch.setenv("RANK", "0")
    recipes = [tiny.recipe(method=method) for method in ("ce", "d-ffds")]
    with Run.of(recipes[0], tmp_path).locked():
        failures = train_all(recipes, out=tmp_path, shown=False, jobs=ALONE)
    assert ["another process" in str(error) for error in failures.values()] == [True]
    assert Run.of(recipes[1], tmp_path).done
