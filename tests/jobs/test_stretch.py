"""The process of a stretch, really started; on real digits."""

import json
import subprocess
import sys

from ffds.environment import environment
from ffds.jobs.engine import train_stretch
from ffds.run_directory import Run
from tests.training import processes, tiny

RECIPE = tiny.recipe("schedule.epochs=8", "data.imbalance_factor=100", "trainer.batch_size=128", method="ce")


def test_it_saves_and_ends_when_whoever_started_it_is_gone(tmp_path):
    run = Run.of(RECIPE, tmp_path)
    order = {"out": str(tmp_path), "until": 8, "branches": [4], "arguments": sys.argv}
    with subprocess.Popen(
        [sys.executable, "-m", "ffds.jobs.stretch"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        process.stdin.write(json.dumps(order | {"recipe": RECIPE.model_dump_json()}) + "\n")
        process.stdin.flush()
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
