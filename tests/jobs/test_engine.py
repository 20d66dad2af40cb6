"""Many runs, each epoch once: here, in processes of a local cluster, and on workers that are killed."""

import json
import os
import re
import signal
import sys
import threading
from pathlib import Path

import pytest

from ffds.errors import InputError, Interrupted, NonFiniteLossError
from ffds.files import is_locked
from ffds.jobs.engine import train_all, train_stretch
from ffds.jobs.options import Jobs
from ffds.recipes.schedule import start_epoch
from ffds.run_directory import Run
from tests.standard_error import captured_stderr
from tests.training import processes, tiny

EPOCHS = 8
TWO = Jobs(2)


def recipe(*overrides, method):
    settings = (f"schedule.epochs={EPOCHS}", "data.imbalance_factor=100", "trainer.batch_size=128")
    return tiny.recipe(*settings, *overrides, method=method)


CE, DEFERRED = recipe(method="ce"), recipe(method="d-ffds")
START = start_epoch(DEFERRED.method, EPOCHS)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The runs, one after the other in this process."""
    out = tmp_path_factory.mktemp("alone")
    assert train_all([CE, DEFERRED], out=out, shown=False) == {}
    return traces(out)


def traces(out):
    return [tiny.trace(Run.of(one, out)) for one in (CE, DEFERRED)]


def epochs_trained(out):
    """How many epochs have a time of their own: a run that goes on from another one has its metrics."""
    return len({json.dumps(line) for one in (CE, DEFERRED) for line in Run.of(one, out).metrics})


def work(out, jobs=TWO):
    """The command, in a process of its own."""
    try:
        return 1 if train_all([CE, DEFERRED], out=out, jobs=jobs) else 0
    except Interrupted as error:
        return error.exit_code


def holder(run, command):
    """The process that trains a run, once its first epoch is saved."""
    processes.wait_for((run.checkpoints / "epoch-0001").exists, command)
    return int(re.match(r"pid (\d+) on", (run.path / "lock").read_text())[1])


def test_a_stretch_ends_with_its_state_saved(tmp_path, alone):
    """Also after an epoch that the recipe leaves unsaved; the second time there is nothing left to train."""
    one, seen = recipe("trainer.checkpoint_every=3", method="ce"), []
    run, look = Run.of(one, tmp_path), lambda entry: seen.append(entry["epoch"])
    for until in (4, 4, 5):
        train_stretch(one, tmp_path, until=until, shown=False, after_epoch=look)
        assert not run.done
        assert (run.checkpoints / f"epoch-{until:04d}").exists()
    train_stretch(one, tmp_path, until=EPOCHS, shown=False)
    assert seen == [1, 2, 3, 4, 5]
    assert tiny.trace(run) == alone[0]


@pytest.mark.parametrize("faster", [False, True])
def test_a_run_that_another_process_trains_is_waited_for(faster, tmp_path, alone, monkeypatch):
    """Also where the other one locked the run just after it was found free."""
    ended, answers = [], [False] * 2 * faster
    monkeypatch.setattr(
        "ffds.jobs.engine.is_locked", lambda lock: answers.pop() if answers else is_locked(lock)
    )
    thread = threading.Thread(target=lambda: ended.append(train_all([CE], out=tmp_path)))
    run = Run.of(CE, tmp_path)
    with captured_stderr() as stderr, run.locked():
        thread.start()
        stderr.wait_for(f"waiting for the process that trains {run.name}", thread.is_alive)
        assert not (run.path / "metrics.jsonl").exists()
    thread.join(processes.LIMIT)
    assert ended == [{}]
    assert tiny.trace(run) == alone[0]


def test_a_signal_while_it_waits_ends_it(tmp_path):
    def send():
        try:
            stderr.wait_for("waiting for the process")
        finally:  # nothing else ends the waiting
            os.kill(os.getpid(), signal.SIGTERM)

    with captured_stderr() as stderr, Run.of(CE, tmp_path).locked():
        threading.Thread(target=send).start()
        with pytest.raises(Interrupted, match="SIGTERM"):
            train_all([CE], out=tmp_path)
    assert stderr.getvalue().count("waiting for") == 1


def test_two_jobs_give_the_same_bits_and_train_each_epoch_once(tmp_path, alone, capfd):
    assert train_all([CE, DEFERRED], out=tmp_path, jobs=TWO) == {}
    assert traces(tmp_path) == alone
    assert epochs_trained(tmp_path) == EPOCHS + EPOCHS - START
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines()[0] == f"plan: 2 runs, 16 epochs: 0 done, {START} shared, {16 - START} to train"
    # What is done starts no process.
    assert train_all([CE, DEFERRED], out=tmp_path, jobs=TWO, shown=False) == {}
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_the_command_its_processes_save_and_the_same_call_goes_on(number, tmp_path, alone):
    ce, log = Run.of(CE, tmp_path), tmp_path / "log"
    command = processes.forked(work, tmp_path, log=log)
    process = holder(ce, command)
    os.kill(command.pid, number)
    asked = number is signal.SIGTERM
    assert processes.exit_code(command) == (75 if asked else -number), log.read_text()
    if asked:
        assert f"{ce.name}: SIGTERM: state saved after epoch" in log.read_text()
        assert not Path(f"/proc/{process}").exists()
    kept = ce.metrics
    assert train_all([CE, DEFERRED], out=tmp_path, shown=False) == {}
    assert traces(tmp_path) == alone
    assert ce.metrics[: len(kept)] == kept, "no epoch twice"
    processes.wait_for_end(process)


def test_two_commands_at_the_same_time_train_each_epoch_once(tmp_path, alone):
    commands = [processes.forked(work, tmp_path, Jobs(1), log=tmp_path / f"log{k}") for k in range(2)]
    for k, command in enumerate(commands):
        assert processes.exit_code(command) == 0, (tmp_path / f"log{k}").read_text()
    assert traces(tmp_path) == alone
    assert epochs_trained(tmp_path) == EPOCHS + EPOCHS - START


def test_failures_are_listed_and_the_others_finish(tmp_path, alone, capfd):
    """D-FFDS trains the epochs itself that it was to share with the run that failed."""
    diverging = recipe("optimizer.lr=1e30", method="fl")
    folder = ("data.name=folder", f"data.root={tmp_path / 'none'}")
    nowhere = [recipe(*folder, method=method) for method in ("fl", "ce")]
    ce = Run.of(CE, tmp_path)
    ce.path.parent.mkdir(parents=True)
    ce.path.touch()
    failures = train_all([CE, diverging, *nowhere, DEFERRED], out=tmp_path, jobs=TWO, shown=False)
    assert {path: type(error) for path, error in failures.items()} == {
        ce.path: InputError,
        Run.of(diverging, tmp_path).path: NonFiniteLossError,
        **{Run.of(one, tmp_path).path: InputError for one in nowhere},
    }
    assert tiny.trace(Run.of(DEFERRED, tmp_path)) == alone[1]
    err = capfd.readouterr().err
    assert err.count("loss or gradient is not finite") == 1
    assert err.count("data.root is not a directory") == 1, "each reason is told once"
    assert err.count("failed: ") == 3
    assert "epoch 1/" not in err, "nothing else is to be shown"


def test_a_worker_is_killed_and_its_stretch_goes_on_elsewhere(tmp_path, alone):
    file, log, out = tmp_path / "scheduler.json", tmp_path / "log", tmp_path / "runs"
    here = ("--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(file))
    dask = (sys.executable, "-m", "distributed.cli.dask_")
    scheduler, worker = ((*dask[:2], dask[2] + name, *here) for name in ("scheduler", "worker"))
    processes.started(*scheduler, "--port", "0", log=log)
    workers = [processes.started(*worker, "--nthreads", "1", "--no-nanny", log=log) for _ in range(2)]
    processes.wait_for(lambda: file.exists() and file.read_text().endswith("}"), workers[0])
    jobs = Jobs(scheduler=json.loads(file.read_text())["address"])
    command = processes.forked(work, out, jobs, log=tmp_path / "command")
    ce = Run.of(CE, out)
    process = Path(f"/proc/{holder(ce, command)}")
    supervisor = int((process / "stat").read_text().rpartition(")")[2].split()[1])
    next(one for one in workers if one.pid == supervisor).kill()
    assert processes.exit_code(command) == 0, log.read_text()
    text = (tmp_path / "command").read_text()
    assert traces(out) == alone
    assert epochs_trained(out) == EPOCHS + EPOCHS - START
    trained = re.findall(rf"{ce.name}: epoch (\d+)/", text)
    assert trained == sorted(set(trained), key=int), "no epoch twice"
    assert len(re.findall(r"going on after epoch", text)) >= 2
