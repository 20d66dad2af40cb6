"""One process beside two, each on one thread: what a second core adds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.result import Result
from benchmarks.setting import Setting
from benchmarks.timing import alternate

__all__ = ["ranks", "seconds_per_image"]


def ranks(setting: Setting, pairs: int) -> list[Result]:
    """Time of an image in the steps of a real training, eager, by the command a user would type.

    Args:
        setting: images and network; the embedded digits stand in for synthetic images.
        pairs: trainings of each side.
    """
    found = alternate(lambda: seconds_per_image(setting, 2), lambda: seconds_per_image(setting, 1), pairs)
    return [
        Result.of(
            f"an image of a training on two processes, {setting.sizes.network}",
            found.scaled(1e3),
            against="one process; gloo, one thread each",
            unit="ms",
            better="higher",
            target=1.8,
        )
    ]


def seconds_per_image(setting: Setting, devices: int) -> float:
    """Of the steps of one epoch of training, eager, with so many processes of one thread each."""
    settings = {
        "method": "ce",
        "model.name": setting.sizes.network,
        "schedule.epochs": 1,
        "trainer.accelerator": "cpu",
        "trainer.devices": devices,
    }
    data = [f"data.root={setting.root}"] if setting.root else []
    recipe = "cifar10-lt-100" if setting.root else "digits"
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "ffds", "train", recipe, "--out", out, *data]
        command += [f"{key}={value}" for key, value in settings.items()]
        # One thread a process, for both sides.
        subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, stdout=subprocess.PIPE)
        (summary,) = Path(out).rglob("summary.json")
        return 1 / float(json.loads(summary.read_text(encoding="utf-8"))["images_per_second"])
