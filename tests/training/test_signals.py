"""Whatever ends a run, the same command goes on and gives the same bits."""

import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress

import pytest
from torch import nn

from ffds.cli import main
from ffds.errors import Interrupted
from ffds.methods.reweighting import Custom
from ffds.recipes.load import load_recipe
from ffds.run_directory import Run
from ffds.training.signals import StopSignals
from ffds.training.train import train_recipe
from tests import killed
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


def test_in_another_thread_it_asks_for_nothing():
    before, seen = [signal.getsignal(known) for known in SIGNALS], []

    def enter():
        with StopSignals() as stop_signals:
            seen.append((stop_signals.requested, [signal.getsignal(known) for known in SIGNALS]))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [(None, before)]


# In training


class Signalling(nn.CrossEntropyLoss):
    """Cross-entropy that sends its own process a signal in one of its calls."""

    def __init__(self, at):
        super().__init__()
        self.calls, self._at = 0, at

    def forward(self, logits, target):
        self.calls += 1
        if self.calls == self._at:
            signal.raise_signal(signal.SIGTERM)
        return super().forward(logits, target)


def test_the_step_ends_and_the_state_is_saved(tmp_path):
    recipe = tiny.recipe(method="ce").model_copy(update={"method": Custom(loss="own")})
    before = [signal.getsignal(known) for known in SIGNALS]
    stopped, later = Signalling(tiny.STEPS + 2), Signalling(0)

    def trained(name, loss):
        return train_recipe(recipe, out=tmp_path / name, dataset=tiny.dataset(), loss=loss, shown=False)

    with pytest.raises(Interrupted, match="SIGTERM: state saved after epoch 1, step 2; the same command"):
        trained("parts", stopped)
    assert stopped.calls == tiny.STEPS + 2
    assert [signal.getsignal(known) for known in SIGNALS] == before
    parts = trained("parts", later)
    assert stopped.calls + later.calls == tiny.EPOCHS * tiny.STEPS, "no step is done twice"
    assert tiny.trace(parts) == tiny.trace(trained("whole", Signalling(0)))


# Real processes, real signals


def run_of(out):
    return Run.of(load_recipe("digits", COMMAND[2:]).recipe, out)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted")
    process = processes.forked(main, [*COMMAND, "--out", str(out)], log=out / "log")
    assert processes.exit_code(process) == 0, (out / "log").read_text()
    return run_of(out)


def goes_on(out, uninterrupted):
    """The same command ends the run, with the same bits."""
    process = processes.forked(main, [*COMMAND, "--out", str(out)], log=out / "log")
    assert processes.exit_code(process) == 0, (out / "log").read_text()
    assert tiny.trace(run_of(out)) == tiny.trace(uninterrupted)
    assert "going on after epoch" in (out / "log").read_text()


def started(out):
    return processes.started(sys.executable, "-m", "ffds", *COMMAND, "--out", str(out), log=out / "log")


@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_command_that_is_stopped(number, epoch, tmp_path, uninterrupted):
    """Started as a process of its own, or forked, which is sooner at work."""
    arguments, run = [*COMMAND, "--out", str(tmp_path)], run_of(tmp_path)
    if epoch == 1:
        process = processes.started(sys.executable, "-m", "ffds", *arguments, log=tmp_path / "log")
    else:
        process = processes.forked(main, arguments, log=tmp_path / "log")
    processes.wait_for((run.checkpoints / f"epoch-{epoch:04d}").exists, process)
    os.kill(process.pid, number)
    code = processes.exit_code(process)
    assert not run.done
    if number == signal.SIGKILL:
        assert code == -signal.SIGKILL
    else:
        assert code == 75, (tmp_path / "log").read_text()
        said = (tmp_path / "log").read_text()
        assert f"error: {signal.Signals(number).name}: state saved after epoch" in said
    goes_on(tmp_path, uninterrupted)


def test_sigkill_as_soon_as_a_checkpoint_is_begun(tmp_path, uninterrupted):
    process = processes.forked(main, [*COMMAND, "--out", str(tmp_path)], log=tmp_path / "log")
    run = run_of(tmp_path)
    processes.wait_for((run.checkpoints / "epoch-0001").exists, process)
    processes.wait_for(lambda: list(run.checkpoints.glob("*.tmp")), process)
    process.kill()
    assert processes.exit_code(process) == -signal.SIGKILL
    assert not run.done
    goes_on(tmp_path, uninterrupted)


class Hanging(nn.CrossEntropyLoss):
    """A step that never ends; signals are handled all the same."""

    def __init__(self, directory):
        super().__init__()
        self._directory = directory

    def forward(self, logits, target):
        (self._directory / "step").touch()
        while True:
            time.sleep(0.01)


class Heard(StopSignals):
    """Leaves a file when a signal was received."""

    def __init__(self, file):
        self._file = file
        super().__init__()

    @property
    def requested(self):
        return self._requested

    @requested.setter
    def requested(self, number):
        self._requested = number
        if number is not None:
            self._file.touch()


def train_with_a_step_that_never_ends(out):
    recipe = tiny.recipe(method="ce").model_copy(update={"method": Custom(loss="own")})
    given = {"loss": Hanging(out), "dataset": tiny.dataset(), "stop_signals": Heard(out / "heard")}
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


# SIGKILL at an exact instruction

KILLS = {
    "in the second step": ("ffds.training.step", "TrainStep.__call__", 2, "before"),
    "between backward pass and optimizer step": ("torch.optim", "SGD.step", 8, "before"),
    "after an optimizer step": ("torch.optim", "SGD.step", 7, "after"),
    "after the metrics, before the checkpoint": ("ffds.run_directory", "Run.add_epoch", 3, "after"),
    "in the first file of the third checkpoint": ("os", "fsync", 24, "before"),
    "between the files of a checkpoint": ("os", "fsync", 25, "after"),
    "before the manifest": ("os", "fsync", 27, "after"),
    "in the manifest": ("os", "fsync", 28, "before"),
    "before the rename": ("pathlib", "Path.rename", 3, "before"),
    "after the rename, before the pruning": ("pathlib", "Path.rename", 3, "after"),
    "before the pruning": ("shutil", "rmtree", 4, "before"),
    "after the pruning": ("shutil", "rmtree", 4, "after"),
    "before the predictions": ("ffds.training.evaluate", "Predictions.write", 1, "before"),
    "before the summary": ("ffds.run_directory", "Run.finish", 1, "before"),
    "before the first file is in its place": ("os", "replace", 1, "before"),
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


def test_a_line_of_metrics_cut_short(tmp_path, d_ffds):
    recipe, whole = d_ffds
    with pytest.raises(Interrupted):
        tiny.train(recipe, tmp_path, polls=2 * tiny.POLLS + 1)
    file = Run.of(recipe, tmp_path).path / "metrics.jsonl"
    line = file.read_text().splitlines()[-1]
    assert json.loads(line)["epoch"] == 2
    with file.open("a") as lines:
        lines.write(line.replace('"epoch": 2', '"epoch": 3') + "\n" + line[: len(line) // 2])
    assert tiny.trace(tiny.train(recipe, tmp_path)) == tiny.trace(whole)
