"""Whatever ends a run, the same command goes on and gives the same bits."""

import json
import os
import signal
import sys
import threading
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import nn

from ffds.cli import main
from ffds.errors import Interrupted
from ffds.recipes.load import load_recipe
from ffds.run_directory import Run
from ffds.training.signals import StopSignals
from ffds.training.train import train_recipe
from tests import killed
from tests.training import processes, tiny

SIGNALS = [signal.SIGTERM, signal.SIGINT]
EPOCHS = 6
COMMAND = ("train", "digits", f"schedule.epochs={EPOCHS}", "model.name=resnet20", "trainer.eval_every=5")


# The object itself


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_a_request(number):
    before = [signal.getsignal(known) for known in SIGNALS]
    with StopSignals() as stop_signals:
        assert stop_signals.requested is None
        signal.raise_signal(number)
        assert stop_signals.requested is number
    assert [signal.getsignal(known) for known in SIGNALS] == before


def test_handlers_are_restored_after_an_error():
    def own(number, frame):
        raise AssertionError

    before = signal.signal(signal.SIGTERM, own)
    try:
        with pytest.raises(ZeroDivisionError), StopSignals():
            raise ZeroDivisionError
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


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

    calls = 0
    at = 0

    def forward(self, logits, target):
        Signalling.calls += 1
        if Signalling.calls == Signalling.at:
            signal.raise_signal(signal.SIGTERM)
        return super().forward(logits, target)


def test_the_step_ends_and_the_state_is_saved(tmp_path, monkeypatch):
    tiny.use(monkeypatch)
    monkeypatch.setattr(Signalling, "calls", 0)
    recipe = tiny.recipe(method="ce")
    before = [signal.getsignal(known) for known in SIGNALS]
    whole = train_recipe(recipe, out=tmp_path / "whole", shown=False)
    monkeypatch.setattr("torch.nn.CrossEntropyLoss", Signalling)
    monkeypatch.setattr(Signalling, "at", tiny.STEPS + 2)
    with pytest.raises(Interrupted, match="SIGTERM: state saved after epoch 1, step 2; the same command"):
        train_recipe(recipe, out=tmp_path / "parts", shown=False)
    assert Signalling.calls == tiny.STEPS + 2
    assert [signal.getsignal(known) for known in SIGNALS] == before
    parts = train_recipe(recipe, out=tmp_path / "parts", shown=False)
    assert Signalling.calls == tiny.EPOCHS * tiny.STEPS, "no step is done twice"
    assert tiny.trace(parts) == tiny.trace(whole)


# Real processes, real signals


def weights(path):
    newest = sorted(path.glob("checkpoints/epoch-????"))[-1]
    assert newest.name == f"epoch-{EPOCHS:04d}"
    return {
        name: tensor.numpy().tobytes() for name, tensor in load_file(newest / "model.safetensors").items()
    }


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
    assert weights(run_of(out).path) == weights(uninterrupted.path)
    assert "going on after epoch" in (out / "log").read_text()


def started(out):
    return processes.started(sys.executable, "-m", "ffds", *COMMAND, "--out", str(out), log=out / "log")


def test_sigkill_of_the_command(tmp_path, uninterrupted):
    process, run = started(tmp_path), run_of(tmp_path)
    processes.wait_for((run.checkpoints / "epoch-0002").exists, process)
    process.kill()
    assert processes.exit_code(process) == -signal.SIGKILL
    assert not run.done
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


def test_sigterm_of_the_command(tmp_path, uninterrupted):
    process, run = started(tmp_path), run_of(tmp_path)
    processes.wait_for((run.checkpoints / "epoch-0001").exists, process)
    process.send_signal(signal.SIGTERM)
    assert processes.exit_code(process) == 75, (tmp_path / "log").read_text()
    assert "error: SIGTERM: state saved after epoch" in (tmp_path / "log").read_text()
    assert not run.done
    goes_on(tmp_path, uninterrupted)


def test_sigint(tmp_path, uninterrupted):
    process = processes.forked(main, [*COMMAND, "--out", str(tmp_path)], log=tmp_path / "log")
    run = run_of(tmp_path)
    processes.wait_for((run.checkpoints / "epoch-0001").exists, process)
    os.kill(process.pid, signal.SIGINT)
    assert processes.exit_code(process) == 75, (tmp_path / "log").read_text()
    assert not run.done
    goes_on(tmp_path, uninterrupted)


class Heard(StopSignals):
    """Leaves a file for each signal it received."""

    def _receive(self, number, frame):
        Path(f"{os.environ['HEARD']}-{'again' if self.requested else 'once'}").touch()
        super()._receive(number, frame)


def train_with_a_step_that_never_ends(out):
    def hang(self, *_, **__):
        Path(f"{os.environ['HEARD']}-step").touch()
        threading.Event().wait()

    with pytest.MonkeyPatch.context() as patch:
        tiny.use(patch)
        patch.setattr("ffds.training.step.TrainStep.__call__", hang)
        patch.setattr("ffds.training.train.StopSignals", Heard)
        train_recipe(tiny.recipe(), out=out, shown=False)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_ends_at_once(number, tmp_path):
    heard = str(tmp_path / "heard")
    process = processes.forked(
        train_with_a_step_that_never_ends, tmp_path, log=tmp_path / "log", environment={"HEARD": heard}
    )
    processes.wait_for(Path(f"{heard}-step").exists, process)
    os.kill(process.pid, number)
    processes.wait_for(Path(f"{heard}-once").exists, process)
    assert process.is_alive()
    os.kill(process.pid, number)
    assert processes.exit_code(process) == -number
    assert Path(f"{heard}-again").exists()


# SIGKILL at an exact instruction

KILLS = {
    "in the second step": ("ffds.training.step", "TrainStep.__call__", 2, "before"),
    "between backward pass and optimizer step": ("torch.optim", "SGD.step", 8, "before"),
    "after an optimizer step": ("torch.optim", "SGD.step", 7, "after"),
    "after the metrics, before the checkpoint": ("ffds.run_directory", "Run.add_epoch", 3, "after"),
    "before the first file of a checkpoint": ("ffds.training.checkpoint", "_write", 11, "before"),
    "between the files of a checkpoint": ("ffds.training.checkpoint", "_write", 12, "after"),
    "before the manifest": ("ffds.training.checkpoint", "_write", 15, "before"),
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
    with pytest.MonkeyPatch.context() as patch:
        tiny.use(patch)
        train_recipe(tiny.recipe(), out=out, shown=False)


@pytest.mark.parametrize("kill", KILLS)
def test_sigkill_at_an_exact_place(kill, tmp_path, monkeypatch, d_ffds):
    recipe, whole = d_ffds
    process = processes.forked(killed.until, train_tiny, tmp_path, *KILLS[kill], log=tmp_path / "log")
    assert processes.exit_code(process) == -signal.SIGKILL, (tmp_path / "log").read_text()
    run = Run.of(recipe, tmp_path)
    assert not run.done
    tiny.use(monkeypatch)
    assert tiny.trace(train_recipe(recipe, out=tmp_path, shown=False)) == tiny.trace(whole)
    assert not list(run.checkpoints.glob("*.tmp"))


def test_a_line_of_metrics_cut_short(tmp_path, monkeypatch, d_ffds):
    recipe, whole = d_ffds
    tiny.use(monkeypatch)
    tiny.stop_after(monkeypatch, 2 * tiny.POLLS + 1)
    with pytest.raises(Interrupted):
        train_recipe(recipe, out=tmp_path, shown=False)
    file = Run.of(recipe, tmp_path).path / "metrics.jsonl"
    line = file.read_text().splitlines()[-1]
    assert json.loads(line)["epoch"] == 2
    with file.open("a") as lines:
        lines.write(line.replace('"epoch": 2', '"epoch": 3') + "\n" + line[: len(line) // 2])
    monkeypatch.undo()
    tiny.use(monkeypatch)
    assert tiny.trace(train_recipe(recipe, out=tmp_path, shown=False)) == tiny.trace(whole)
