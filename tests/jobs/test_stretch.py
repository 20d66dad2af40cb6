"""The process of a stretch, really started; on real digits."""

import json
import subprocess
import sys
from dataclasses import asdict

from ffds.environment import environment
from ffds.jobs.cluster import Order
from ffds.jobs.engine import train_stretch
from ffds.run_directory import Run
from tests.training import processes, tiny

RECIPE = tiny.recipe("schedule.epochs=8", "data.imbalance_factor=100", "trainer.batch_size=128", method="ce")


def started(out, until, recipe=RECIPE):
    order = Order(recipe.model_dump_json(), str(out), until, [4], str(out), sys.argv, "1")
    process = subprocess.Popen(
        [sys.executable, "-m", "ffds.jobs.stretch"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    process.stdin.write(json.dumps(asdict(order)) + "\n")
    process.stdin.flush()
    return process


def test_it_saves_and_ends_when_whoever_started_it_is_gone(tmp_path):
    run = Run.of(RECIPE, tmp_path)
    with started(tmp_path, 8) as process:
        processes.wait_for((run.checkpoints / "epoch-0001").exists, process)
        said, lines = process.communicate()
    assert process.returncode == 75
    assert said.startswith("SIGTERM: state saved after epoch ")
    assert lines.startswith("digits ce seed 0: 8 epochs of ")
    assert run.environment["command"] == environment()["command"], "as it was typed"
    assert not run.done
    train_stretch(RECIPE, tmp_path, shown=False)
    train_stretch(RECIPE, tmp_path / "whole", shown=False)
    assert tiny.trace(run) == tiny.trace(Run.of(RECIPE, tmp_path / "whole"))


def test_a_failure_is_told_on_standard_output(tmp_path):
    (tmp_path / "digits").touch()
    with started(tmp_path, 4) as process:
        said = process.stdout.read()
    assert process.returncode == 2
    assert said.startswith("cannot write the run directory\n  where: ")
