"""`ffds runs` lists what is on the disk and removes what nobody needs, and nothing else."""

import json
import os
import shutil
from pathlib import Path

import pytest

from ffds.cli import main
from ffds.run_directory import Run
from tests.finished_runs import ENVIRONMENT, recipe, write_run

FOREIGN = 2**22 + 1
"""No process has this number."""


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Runs that are done, with leftovers of a killed process and an older checkpoint, unfinished, damaged."""
    short = "schedule.epochs=3"
    done = write_run(tmp_path, recipe(short, method="ce"))
    shutil.copytree(done.checkpoints / "epoch-0003", done.checkpoints / "epoch-0002")
    (done.checkpoints / "epoch-0003.tmp").mkdir()
    (done.path / f".summary.json.{FOREIGN}.tmp").write_text("{")
    unfinished = Run.of(recipe("schedule.epochs=9", method="ffds"), tmp_path)
    shutil.copytree(done.path, unfinished.path)
    (unfinished.path / "summary.json").unlink()
    unfinished.start(recipe("schedule.epochs=9", method="ffds"), ENVIRONMENT)
    damaged = write_run(tmp_path, recipe(short, method="fl"), checkpoint=False)
    (damaged.path / "metrics.jsonl").write_text("no json\n")
    other = write_run(tmp_path, recipe("data.root=a", name="cifar10-lt-100"), classes=10)
    for run in (unfinished, other):
        (run.path.parents[1] / "trajectories" / "0123").mkdir(parents=True)
    return tmp_path


def run(out: Path, method: str) -> Path:
    (path,) = out.glob(f"*/{method}/*")
    return path


def files(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*")} - {
        str(path.relative_to(out)) for path in out.rglob("lock")
    }


def test_list(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "list", "--out", str(out), "--json"]) == 0
    listed = {one["method"]: one for one in json.loads(capsys.readouterr().out)}
    shown = {method: (one["state"], one["epoch"], one["accuracy"]) for method, one in listed.items()}
    assert shown == {
        "ce": ("done", 3, 40.0),
        "ffds": ("unfinished", 3, None),
        "fl": ("damaged", None, None),
        "d-ffds": ("done", 200, 40.0),
    }
    sizes = {path: path.stat().st_size for path in run(out, "ce").rglob("*") if path.is_file()}
    assert listed["ce"]["bytes"] == sum(sizes.values())
    assert "metrics.jsonl" in listed["fl"]["error"]
    with Run(run(out, "ffds")).locked():
        assert main(["runs", "list", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    for words in ("in use, epoch 3 of 9", "done", "damaged", "40.00"):
        assert words in printed


def test_clean_removes_nothing_unasked_and_then_what_it_said(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(out)
    assert main(["runs", "clean", "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert files(out) == before
    paths = {str(Path(one["path"]).relative_to(out)) for one in said["entries"]}
    ce, ffds = (str(run(out, method).relative_to(out)) for method in ("ce", "ffds"))
    assert paths == {
        f"{ce}/.summary.json.{FOREIGN}.tmp",
        f"{ffds}/.summary.json.{FOREIGN}.tmp",
        f"{ce}/checkpoints/epoch-0003.tmp",
        f"{ffds}/checkpoints/epoch-0003.tmp",
        f"{ce}/checkpoints/epoch-0002",
        "cifar10-lt-100/trajectories",
    }
    assert main(["runs", "clean", "--out", str(out), "--yes"]) == 0
    assert "MiB removed" in capsys.readouterr().out
    assert {name for name in before - files(out) if not any(name.startswith(one) for one in paths)} == set()
    assert not any((out / name).exists() for name in paths)
    assert main(["runs", "clean", "--out", str(out)]) == 0
    assert "nothing to remove" in capsys.readouterr().out


def test_a_run_in_use_is_left_alone_and_old_unfinished_ones_go_if_asked(out: Path) -> None:
    unfinished = run(out, "ffds")
    for path in [unfinished, *unfinished.rglob("*")]:
        os.utime(path, (0, 0))
    clean = ["runs", "clean", "--out", str(out), "--unfinished", "30", "--yes"]
    with Run(run(out, "ce")).locked(), Run(unfinished).locked():
        before = files(unfinished) | files(run(out, "ce"))
        assert main(clean) == 0
        assert files(unfinished) | files(run(out, "ce")) == before
    assert main(clean) == 0
    assert unfinished.exists(), "the lock was written just now"
    for path in [unfinished, *unfinished.rglob("*")]:
        os.utime(path, (0, 0))
    assert main(clean) == 0
    assert not unfinished.exists()
    assert Run(run(out, "ce")).done


def test_older_checkpoints_stay_where_the_newest_is_broken(out: Path) -> None:
    checkpoints = run(out, "ce") / "checkpoints"
    (checkpoints / "epoch-0003" / "model.safetensors").write_bytes(b"")
    assert main(["runs", "clean", "--out", str(out), "--yes"]) == 0
    assert [path.name for path in checkpoints.iterdir()] == ["epoch-0002"]
