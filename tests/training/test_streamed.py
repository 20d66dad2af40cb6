"""Training on images that stay in their files: the same bits as in memory, whatever happens on the way."""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from ffds.cli import main
from ffds.data.content import knowing_images
from ffds.data.loader import TrainBatches
from ffds.errors import InputError, Interrupted
from ffds.recipes.load import load_recipe
from ffds.run_directory import Run
from ffds.training.train import train_recipe
from tests.data.pictures import write_folder
from tests.training import processes, tiny

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for children in /proc")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    root = write_folder(
        tmp_path_factory.mktemp("folder"), {"a": 30, "b": 12, "c": 5}, {"a": 6, "b": 6, "c": 6}
    )
    return [
        f"data.root={root}",
        *("data.image_size=12", "data.eval_resize=14", "data.workers=2", "data.cache=false"),
        *("model.name=resnet8", "model.pretrained=false", "trainer.batch_size=12", "schedule.epochs=3"),
    ]


def recipe(settings, *more, in_memory):
    texts = [*settings, f"data.in_memory={str(in_memory).lower()}", *more]
    return load_recipe("own-folder", texts).recipe


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory):
    """In memory, never interrupted."""
    return train_recipe(recipe(settings, in_memory=True), out=tmp_path_factory.mktemp("whole"), shown=False)


def test_the_weights_are_bit_equal(settings, whole, tmp_path):
    run = train_recipe(recipe(settings, in_memory=False), out=tmp_path, shown=False)
    assert run.path.name == whole.path.name, "where images are kept is no part of what a run is"
    assert tiny.trace(run) == tiny.trace(whole)


@pytest.mark.parametrize(("polls", "then"), [(2, False), (6, True)])
def test_interrupted_it_goes_on_with_any_workers_or_in_memory(
    polls, then, settings, whole, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        tiny.stop_after(patch, polls)
        with pytest.raises(Interrupted):
            train_recipe(recipe(settings, in_memory=False), out=tmp_path, shown=False)
    run = train_recipe(recipe(settings, "data.workers=1", in_memory=then), out=tmp_path, shown=False)
    assert tiny.trace(run) == tiny.trace(whole)


DAMAGES = {
    "no bytes": lambda file: file.write_bytes(b""),
    "Truncated": lambda file: file.write_bytes(file.read_bytes()[:-200]),
    "not a regular file": lambda file: (file.unlink(), os.mkfifo(file)),
    "No such file": lambda file: file.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_image_damaged_meanwhile_is_named_and_once_repaired_the_run_goes_on(
    damage, settings, whole, tmp_path, monkeypatch
):
    file = Path(settings[0].partition("=")[2], "train", "b", "004.jpg")
    sound, epoch_of = file.read_bytes(), TrainBatches.epoch

    def damaged_in_the_second(batches, epoch, *given):
        if epoch == 1:
            DAMAGES[damage](file)
        return epoch_of(batches, epoch, *given)

    with monkeypatch.context() as patch:
        patch.setattr(TrainBatches, "epoch", damaged_in_the_second)
        with pytest.raises(InputError) as caught:
            train_recipe(recipe(settings, in_memory=False), out=tmp_path, shown=False)
    file.unlink(missing_ok=True)
    file.write_bytes(sound)
    assert re.search(rf"cannot be read\n.*{file}\n.*{damage}", str(caught.value))
    run = train_recipe(recipe(settings, in_memory=False), out=tmp_path, shown=False)
    assert tiny.trace(run) == tiny.trace(whole)


# Real processes, real signals


def in_a_session(*arguments):
    """With a process group of its own, as a shell gives to a command."""
    os.setsid()
    return main(list(arguments))


def start(settings, out):
    """The command with data in files."""
    arguments = ["train", "own-folder", *settings, "data.in_memory=false", "--out", str(out)]
    return processes.forked(in_a_session, *arguments, log=out / "log")


def run_of(settings, out):
    return Run.of(knowing_images(load_recipe("own-folder", settings).recipe), out)


@pytest.fixture
def begun(settings, tmp_path):
    """The command once an epoch is saved, and its run directory."""
    process, run = start(settings, tmp_path), run_of(settings, tmp_path)
    processes.wait_for((run.checkpoints / "epoch-0001").exists, process)
    return process, run


def check_goes_on(settings, run, out, whole):
    assert processes.exit_code(start(settings, out)) == 0, (out / "log").read_text()
    assert tiny.trace(run) == tiny.trace(whole)


def test_a_killed_worker(settings, whole, tmp_path, begun):
    process, run = begun
    children, killed = Path(f"/proc/{process.pid}/task/{process.pid}/children"), set()
    # One may be killed when it has nothing more to do; then the next one is.
    while process.is_alive():
        for pid in children.read_text().split()[:1] if children.exists() else []:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
            killed.add(pid)
        time.sleep(0.005)
    assert processes.exit_code(process) == 2
    log = (tmp_path / "log").read_text()
    pid = re.search(r"error: a decoding worker \(pid (\d+)\) was killed by SIGKILL", log)[1]
    assert pid in killed
    assert "Traceback" not in log
    assert not run.done
    check_goes_on(settings, run, tmp_path, whole)


def test_ctrl_c_on_a_terminal(settings, whole, tmp_path, begun):
    process, run = begun
    os.killpg(process.pid, signal.SIGINT)
    log = tmp_path / "log"
    assert processes.exit_code(process) == 75, log.read_text()
    assert "SIGINT: state saved" in log.read_text()
    assert "Traceback" not in log.read_text()
    check_goes_on(settings, run, tmp_path, whole)


def test_two_ranks(settings, tmp_path):
    """Each with workers of its own; equal to two ranks in memory."""
    traces = []
    for memory in ("true", "false"):
        out = tmp_path / memory
        out.mkdir()
        two = [*settings, "trainer.devices=2", "trainer.accelerator=cpu", f"data.in_memory={memory}"]
        started = processes.ranks(rank_of, two, out, log=out / "log")
        codes = [processes.exit_code(process) for process in started]
        assert codes == [0, 0], [(out / f"log-rank{k}").read_text() for k in range(2)]
        traces.append(tiny.trace(run_of(two, out)))
    assert traces[0] == traces[1]


def rank_of(number, settings, out):
    return main(["train", "own-folder", *settings, "--out", str(out)])
