"""Whatever ends a run, the same command goes on and gives the same bits."""

import os
import signal
import sys
import threading
import time
from contextlib import ExitStack, suppress

import pytest
from torch import nn

from ffds.cli import main
from ffds.data.open import open_dataset
from ffds.errors import Interrupted
from ffds.evaluation.counts import Evaluation
from ffds.files import try_lock
from ffds.recipes.load import load_recipe
from ffds.run_directory import Run
from ffds.training.signals import StopSignals, stop_at_once
from ffds.training.train import train_recipe
from tests import killed
from tests.data.pictures import write_folder
from tests.training import processes, tiny

SIGNALS = [signal.SIGTERM, signal.SIGINT]
EPOCHS = 6
COMMAND = ("train", "digits", f"schedule.epochs={EPOCHS}", "model.name=resnet20", "trainer.eval_every=5")


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_a_request(number):
    def own(number, frame):
        raise AssertionError

    former = {known: signal.signal(known, own) for known in SIGNALS}
    try:
        with suppress(ZeroDivisionError), StopSignals() as outer:
            with StopSignals() as inner:
                assert inner.requested is None
                signal.raise_signal(number)
                assert inner.requested is outer.requested is number
            with StopSignals() as later:
                assert later.requested is None
            raise ZeroDivisionError
        assert [signal.getsignal(known) for known in SIGNALS] == [own, own], "also after an error"
    finally:
        for known, handler in former.items():
            signal.signal(known, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_with_nothing_to_save_the_first_signal_stops_at_once(number):
    """As Ctrl-C does, past libraries that catch every Exception; a second one would end the process."""

    def stopped_at_once():
        try:
            with suppress(Exception):
                signal.raise_signal(number)
            pytest.fail("goes on")
        except KeyboardInterrupt:
            assert signal.getsignal(number) is signal.SIG_DFL
            raise

    before = [signal.getsignal(known) for known in SIGNALS]
    with pytest.raises(Interrupted, match=number.name), stop_at_once():
        stopped_at_once()
    with StopSignals():
        signal.raise_signal(number)
        with pytest.raises(Interrupted, match=number.name), stop_at_once():
            pytest.fail("a request from before counts")
    assert [signal.getsignal(known) for known in SIGNALS] == before


def test_in_another_thread_it_asks_for_nothing():
    before, seen = [signal.getsignal(known) for known in SIGNALS], []

    def enter():
        with StopSignals() as stop_signals:
            seen.append((stop_signals.requested, [signal.getsignal(known) for known in SIGNALS]))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [(None, before)]


def run_of(out):
    return Run.of(load_recipe("digits", COMMAND[2:]).recipe, out)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted")
    process = processes.forked(main, [*COMMAND, "--out", str(out)], log=out / "log")
    assert processes.exit_code(process) == 0, (out / "log").read_text()
    return run_of(out)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_command_that_is_stopped(number, tmp_path, uninterrupted):
    """The same command ends the run, with the same bits; once it is a process of its own, not a fork."""
    arguments, run, log = [*COMMAND, "--out", str(tmp_path)], run_of(tmp_path), tmp_path / "log"
    if number == signal.SIGTERM:
        process = processes.started(sys.executable, "-m", "ffds", *arguments, log=log)
    else:
        process = processes.forked(main, arguments, log=log)
    processes.wait_for((run.checkpoints / "epoch-0002").exists, process)
    os.kill(process.pid, number)
    assert processes.exit_code(process) == (-number if number == signal.SIGKILL else 75), log.read_text()
    assert not run.done
    stopped = f"error: {number.name}: state saved after epoch" in log.read_text()
    assert stopped == (number != signal.SIGKILL)
    assert processes.exit_code(processes.forked(main, arguments, log=log)) == 0, log.read_text()
    assert tiny.trace(run) == tiny.trace(uninterrupted)
    assert "going on after epoch" in log.read_text()


@pytest.mark.parametrize(("number", "batch"), [(signal.SIGTERM, 1), (signal.SIGINT, 3)])
def test_a_signal_in_an_evaluation(number, batch, tmp_path, monkeypatch, d_ffds):
    """The first or a later one; each has a single batch."""
    recipe, whole = d_ffds
    update, seen = Evaluation.update, []

    def signalled(*given):
        seen.append(update(*given))
        if len(seen) == batch:
            signal.raise_signal(number)

    monkeypatch.setattr(Evaluation, "update", signalled)
    given = {"out": tmp_path, "dataset": tiny.dataset(), "shown": False}
    saved = f"{number.name}: state saved after epoch {batch - 1}, step {tiny.STEPS}"
    with pytest.raises(Interrupted, match=saved):
        train_recipe(recipe, **given)
    assert tiny.trace(train_recipe(recipe, **given)) == tiny.trace(whole)
    assert len(seen) == tiny.EPOCHS + 1, "the evaluation is repeated"


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_data_are_opened(number, tmp_path, monkeypatch):
    def opening(data):
        signal.raise_signal(number)
        pytest.fail("goes on")

    monkeypatch.setattr("ffds.training.train.open_dataset", opening)
    with pytest.raises(Interrupted, match=f"{number.name}: stopped"), StopSignals():
        train_recipe(tiny.recipe(), out=tmp_path, shown=False)


def test_a_signal_while_another_process_decodes_the_same_images(tmp_path, monkeypatch):
    monkeypatch.setenv("FFDS_CACHE", str(tmp_path / "cache"))
    log, root = tmp_path / "log", write_folder(tmp_path / "images", {"a": 2, "b": 2}, {"a": 1, "b": 1})
    opened = [
        "own-folder",
        f"data.root={root}",
        "data.image_size=8",
        "data.eval_resize=8",
        "data.in_memory=true",
    ]
    open_dataset(load_recipe(opened[0], opened[1:]).recipe.data)
    for entry in tmp_path.rglob("*.npz"):
        entry.unlink()
    with ExitStack() as decoding:
        for lock in tmp_path.rglob("cache/**/*.lock"):
            decoding.enter_context(try_lock(lock))
        command = ("train", *opened, "model.pretrained=false", "method=ce", "--out", str(tmp_path))
        process = processes.started(sys.executable, "-m", "ffds", *command, log=log)
        processes.wait_for(lambda: "waiting for it" in log.read_text(), process)
        process.send_signal(signal.SIGTERM)
        assert processes.exit_code(process) == 75
    assert "error: SIGTERM: stopped" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_a_signal_during_imports(tmp_path):
    log = tmp_path / "log"
    command = ("-X", "importtime", "-m", "ffds", *COMMAND, "--out", str(tmp_path))
    process = processes.started(sys.executable, *command, log=log)
    processes.wait_for(lambda: "torch.types" in log.read_text(), process)
    process.send_signal(signal.SIGINT)
    assert processes.exit_code(process) == 75
    assert "error: SIGINT: stopped" in log.read_text()
    assert "Traceback" not in log.read_text()


class Hanging(nn.CrossEntropyLoss):
    """A step that never ends; one file tells that it began, another that a signal was received."""

    def __init__(self, directory, signals):
        super().__init__()
        self._directory, self._signals = directory, signals

    def forward(self, logits, target):
        if len(target) < 32:  # the trial before training
            return super().forward(logits, target)
        (self._directory / "step").touch()
        while True:
            time.sleep(0.01)
            if self._signals.requested is not None:
                (self._directory / "heard").touch()


def train_with_a_step_that_never_ends(out):
    recipe, signals = tiny.own(), StopSignals()
    given = {"loss": Hanging(out, signals), "dataset": tiny.dataset(), "stop_signals": signals}
    train_recipe(recipe, out=out, shown=False, **given)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_ends_at_once(number, tmp_path):
    process = processes.forked(train_with_a_step_that_never_ends, tmp_path, log=tmp_path / "log")
    processes.wait_for((tmp_path / "step").exists, process)
    os.kill(process.pid, number)
    processes.wait_for((tmp_path / "heard").exists, process)
    assert process.is_alive()
    os.kill(process.pid, number)
    assert processes.exit_code(process) == -number


KILLS = {
    "between backward pass and optimizer step": ("torch.optim", "SGD.step", 8, "before"),
    "after the metrics, before the checkpoint": ("ffds.run_directory", "Run.add_epoch", 3, "after"),
    "between the files of a checkpoint": ("os", "fsync", 25, "after"),
    "before the rename": ("pathlib", "Path.rename", 3, "before"),
    "after the rename, before the pruning": ("pathlib", "Path.rename", 3, "after"),
    "after the pruning": ("shutil", "rmtree", 1, "after"),
    "before the predictions": ("ffds.training.evaluate", "Predictions.write", 1, "before"),
    "before the summary": ("ffds.run_directory", "Run.finish", 1, "before"),
    "before the summary is in its place": ("os", "replace", 5, "before"),
}


def train_tiny(out):
    tiny.train(tiny.recipe(), out)


@pytest.mark.parametrize("kill", KILLS)
def test_sigkill_at_an_exact_place(kill, tmp_path, d_ffds):
    recipe, whole = d_ffds
    process = processes.forked(killed.until, train_tiny, tmp_path, *KILLS[kill], log=tmp_path / "log")
    assert processes.exit_code(process) == -signal.SIGKILL, (tmp_path / "log").read_text()
    run = Run.of(recipe, tmp_path)
    assert not run.done
    assert tiny.trace(tiny.train(recipe, tmp_path)) == tiny.trace(whole)
    assert not list(run.checkpoints.glob("*.tmp"))
