"""The run directory: where it lies, what it holds, who may write it."""

import errno
import fcntl
import json
import math
import os
import shutil
import signal
import socket
import threading
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from ffds.errors import FfdsError, InputError
from ffds.recipes.load import load_recipe
from ffds.run_directory import Run, open_run
from tests import full_disk
from tests.training import processes

RECIPE = load_recipe("digits", ["trainer.seed=3"]).recipe
SUMMARY = {
    **{"recipe": "digits", "method": "ce", "seed": 0, "config_hash": "ab", "epochs": 8},
    **{"accuracy": {"last": 40.5, "best_on_test": 41, "best_epoch": 7}, "ece": None},
    **{"train_accuracy": 90.0, "seconds": 12.5, "images_per_second": 1000.0},
}


def environment_on(hardware, torch="1", command="x"):
    return {"hardware": hardware, "versions": {"torch": torch}, "commit": None, "command": command}


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / "run")
    run.path.mkdir()
    return run


def test_any_other_setting_is_another_place(tmp_path):
    run = Run.of(RECIPE, tmp_path)
    assert run.path == tmp_path / "digits" / "d-ffds" / f"seed3-{RECIPE.config_hash[:8]}"
    assert not run.path.exists(), "asking makes nothing"
    texts = ["optimizer.lr=0.05", "trainer.seed=4", "method.k=0.8", "method=ce", "data.seed=1"]
    places = {Run.of(load_recipe("digits", ["trainer.seed=3", text]).recipe, tmp_path).path for text in texts}
    assert len(places | {run.path}) == len(texts) + 1
    with pytest.raises(InputError):
        load_recipe("digits", ["name=../../elsewhere"])


@pytest.mark.parametrize("root", ["photos", "../photos", "/photos"])
def test_the_place_of_the_images_is_no_other_run_and_the_name_of_earlier_versions_is_known(root, tmp_path):
    one = load_recipe("digits", ["trainer.seed=3", f"data.root={root}"]).recipe
    assert Run.of(one, tmp_path) == Run.of(RECIPE, tmp_path)
    earlier = Run(Run.of(one, tmp_path).path.with_name(f"seed3-{one.earlier_hash[:8]}"))
    earlier.path.mkdir(parents=True)
    known = one.with_images(f"sha256:{'0' * 16}")
    assert Run.of(one, tmp_path) == Run.of(known, tmp_path) == earlier != Run.of(RECIPE, tmp_path)
    Run.of(RECIPE, tmp_path).path.mkdir()
    assert Run.of(one, tmp_path) == Run.of(RECIPE, tmp_path)


def test_files_are_json_for_anyone_and_come_back(run):
    environment = environment_on("a machine")
    run.start(RECIPE, environment)
    run.add_epoch({"epoch": 1})
    assert not run.done
    with pytest.raises(InputError, match=r"not done(.|\n)*start the same training again"):
        _ = run.summary
    run.finish(SUMMARY)
    assert run.done
    assert json.loads((run.path / "environment.json").read_text()) == environment
    assert json.loads((run.path / "summary.json").read_text()) == SUMMARY
    assert (run.path / "metrics.jsonl").read_text() == '{"epoch": 1}\n'
    again = open_run(str(run.path))
    assert open_run(run.path) == run == again
    assert (again.recipe, again.environment) == (RECIPE, environment)
    assert (again.summary, again.metrics) == (SUMMARY, [{"epoch": 1}])


def test_environments_of_earlier_sessions_are_kept(run):
    sessions = [("a", "1", "x"), ("a", "1", "y"), ("a", "2", "y"), ("b", "2", "y")]
    places = [environment_on(*session) for session in sessions]
    told = [run.start(RECIPE, place) for place in places]
    assert told == [[], [], ['versions: {"torch": "1"} → {"torch": "2"}'], ["hardware: a → b"]]
    assert run.environment == {**places[3], "earlier": [places[1], places[2]]}
    (run.path / "environment.json").write_text("{")
    assert run.start(RECIPE, places[0]) == [], "a damaged one stops no training"
    assert run.environment == places[0]
    (run.path / "environment.json").write_text(json.dumps(places[1] | {"earlier": 7}))
    assert run.start(RECIPE, places[0]) == []
    assert run.environment == places[0]


def test_metrics(run):
    assert run.metrics == []
    for epoch in (1, 2, 3):
        run.add_epoch({"epoch": epoch, "test": None})
    assert run.metrics == [{"epoch": epoch, "test": None} for epoch in (1, 2, 3)]
    run.keep_epochs(2)
    assert [line["epoch"] for line in run.metrics] == [1, 2]
    run.keep_epochs(0)
    assert run.metrics == []
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.add_epoch({"epoch": 1, "loss": float("nan")})
    assert run.metrics == []


LINES = [f'{{"epoch": {epoch}}}\n' for epoch in (1, 2, 3)]


@pytest.mark.parametrize(
    "left", [None, "", LINES[0], LINES[1], LINES[0] + LINES[2], LINES[1] + LINES[0], LINES[0] + LINES[0]]
)
def test_metrics_that_are_lost(left, run):
    """Whether between two sessions or under a run that goes on: never a run with epochs missing."""
    for epoch in (1, 2):
        run.add_epoch({"epoch": epoch})
    file = run.path / "metrics.jsonl"
    file.unlink()
    if left is not None:
        file.write_text(left)
    with pytest.raises(InputError, match=r"missing or damaged\n.*metrics.jsonl"):
        run.keep_epochs(2)
    assert left == (file.read_text() if file.exists() else None)
    seen_at_once = nullcontext() if left == LINES[1] else pytest.raises(InputError, match="damaged")
    with seen_at_once:
        run.add_epoch({"epoch": 3})
    with pytest.raises(InputError, match=r"missing or damaged\n.*metrics.jsonl"):
        run.keep_epochs(3)


WRONG = ["[" * 100_000, "[1]", "1", "null", '{"epoch": "1"}', '{"epoch": {"epoch": 1}}', "9" * 5000, "\xff"]


@pytest.mark.parametrize("line", WRONG)
def test_metrics_of_wrong_types(line, run):
    (run.path / "metrics.jsonl").write_bytes(line.encode("latin-1") + b"\n")
    for act in (lambda: run.metrics, lambda: run.keep_epochs(1), lambda: run.add_epoch({"epoch": 2})):
        with pytest.raises(InputError, match=r"missing or damaged\n.*metrics.jsonl\n.*epoch 1"):
            act()


@pytest.mark.parametrize("call", ["start", "add_epoch", "finish"])
def test_disk_full(call, run, monkeypatch):
    run.start(RECIPE, {"hardware": "a machine"})
    run.add_epoch({"epoch": 1})
    before = {path: path.read_bytes() for path in run.path.iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    arguments = {"start": (RECIPE, {}), "add_epoch": ({"epoch": 2},), "finish": ({},)}[call]
    with pytest.raises(FfdsError, match=r"disk full .* [\d,]+ bytes needed, [\d,]+ free") as caught:
        getattr(run, call)(*arguments)
    assert caught.value.exit_code == 2
    monkeypatch.undo()
    run.keep_epochs(1)
    assert {path: path.read_bytes() for path in run.path.iterdir()} == before


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_line_cut_short_is_left_out(cut, run):
    for epoch in (1, 2):
        run.add_epoch({"epoch": epoch, "lr": 0.1})
    file = run.path / "metrics.jsonl"
    file.write_text(file.read_text()[:-cut])
    assert run.metrics == [{"epoch": 1, "lr": 0.1}]
    run.keep_epochs(1)
    run.add_epoch({"epoch": 2, "lr": 0.2})
    assert run.metrics == [{"epoch": 1, "lr": 0.1}, {"epoch": 2, "lr": 0.2}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("summary.json", b'{"accuracy": '),
        ("summary.json", b"\xff"),
        ("summary.json", json.dumps(SUMMARY | {"ece": math.nan}).encode()),
        ("summary.json", json.dumps(SUMMARY | {"ece": 101.0}).encode()),
        ("summary.json", json.dumps(SUMMARY | {"accuracy": 40.5}).encode()),
        ("summary.json", json.dumps(SUMMARY | {"seed": "0"}).encode()),
        *((f"{name}.json", b"[" * 100_000) for name in ("summary", "environment")),
        *((f"{name}.json", b"[]") for name in ("summary", "environment")),
        ("environment.json", b""),
        ("environment.json", None),
        ("environment.json", json.dumps(environment_on("a") | {"versions": {"tprch": "1"}}).encode()),
        ("environment.json", json.dumps(environment_on(5)).encode()),
        ("metrics.jsonl", b'{"epoch": NaN}\n'),
        ("metrics.jsonl", b'{"epoch": 1, "test": {"accuracy": 40.5}}\n'),
        ("metrics.jsonl", b'{"epoch": ' + b"[" * 100_000 + b"\n"),
        ("metrics.jsonl", b'{"epoch": 1}\n\n{"epoch": 2}\n'),
    ],
)
def test_a_damaged_file_is_named(name, content, run):
    if content is not None:
        (run.path / name).write_bytes(content)
    with pytest.raises(InputError, match="missing or damaged") as caught:
        getattr(run, name.partition(".")[0])
    assert str(run.path / name) in str(caught.value)
    assert "delete the run directory" in str(caught.value)


def test_a_line_for_which_the_disk_has_no_room(run):
    run.add_epoch({"epoch": 1})
    size = (run.path / "metrics.jsonl").stat().st_size
    with full_disk.room_for(size + 5), pytest.raises(InputError, match="cannot save the metrics"):
        run.add_epoch({"epoch": 2})
    assert (run.path / "metrics.jsonl").stat().st_size == size + 5, "half a line"
    run.keep_epochs(1)
    run.add_epoch({"epoch": 2})
    assert run.metrics == [{"epoch": 1}, {"epoch": 2}]


def finished(run):
    """A run whose files agree."""
    run = Run(run.path.with_name(f"seed3-{RECIPE.config_hash[:8]}"))
    run.path.mkdir()
    run.start(RECIPE, environment_on("a"))
    run.take_epochs({"epoch": epoch} for epoch in range(1, 8))
    run.add_epoch({"epoch": 8, "test": {"accuracy": 40.5, "tail": 5.0, "per_class": [40.5]}})
    run.finish(SUMMARY | {"tail": 5.0})
    run.check()
    return run


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        ("recipe.yaml", "lr: 0.1", "lr: 0.3", "not the recipe"),
        ("summary.json", '"epochs": 8', '"epochs": 9', "epochs not as in the last line of metrics"),
        ("summary.json", '"last": 40.5', '"last": 60.5', "accuracy not as in"),
        ("summary.json", '"tail"', '"tahl"', "tail not as in"),
        ("metrics.jsonl", '"test"', '"uest"', "accuracy not as in"),
        ("metrics.jsonl", '"accuracy": 40.5', '"accuracy": 0.5', "accuracy not as in"),
        ("metrics.jsonl", "}}\n", "}}", "accuracy, epochs not as in"),
    ],
)
def test_files_of_a_finished_run_that_disagree(name, old, new, told, run):
    run = finished(run)
    text = (run.path / name).read_text()
    assert text.count(old) == 1
    (run.path / name).write_text(text.replace(old, new))
    with pytest.raises(InputError, match=told):
        run.check()


@pytest.mark.parametrize(("path", "told"), [("a", "no such directory"), (".", "no recipe.yaml in it")])
def test_not_a_run(path, told, tmp_path):
    with pytest.raises(InputError, match=rf"not a run directory(.|\n)*{told}") as caught:
        open_run(tmp_path / path)
    assert str(tmp_path / path) in str(caught.value)


def test_the_lock_names_its_holder_and_ends_with_an_error(tmp_path):
    run = Run(tmp_path / "a" / "b")
    with suppress(ZeroDivisionError), run.locked():
        with pytest.raises(InputError, match="another process is training this run") as caught, run.locked():
            pass
        raise ZeroDivisionError
    holder = f"pid {os.getpid()} on {socket.gethostname()}"
    for part in (str(run.path), "trainer.seed=N", "--out DIR", holder):
        assert part in str(caught.value)
    with run.locked():
        assert (run.path / "lock").read_text() == f"{holder}\n"
        (run.path / "lock").write_bytes(b"\xff\xfe not text")
        with pytest.raises(InputError, match="another process is training this run"), run.locked():
            pass


def hold(run):
    with run.locked():
        (run.path / "held").touch()
        threading.Event().wait()


def test_the_lock_of_another_process_ends_with_it(run, tmp_path):
    process = processes.forked(hold, run, log=tmp_path / "log")
    processes.wait_for((run.path / "held").exists, process)
    with pytest.raises(InputError) as caught, run.locked():
        pass
    assert f"pid {process.pid} on {socket.gethostname()}" in str(caught.value)
    process.kill()
    assert processes.exit_code(process) == -signal.SIGKILL
    with run.locked():
        assert f"pid {os.getpid()} " in (run.path / "lock").read_text()


@pytest.mark.parametrize(
    "how", [Path.unlink, lambda lock: lock.replace(lock.with_name("moved")), shutil.rmtree]
)
def test_a_run_whose_lock_was_removed_writes_nothing_more(how, run):
    """Another process may train it by now, and no epoch counts twice."""
    with run.locked() as held:
        held.start(RECIPE, {"hardware": "a machine"})
        held.add_epoch({"epoch": 1})
        how(run.path if how is shutil.rmtree else run.path / "lock")
        with run.locked() as other:
            acts = [
                lambda: held.add_epoch({"epoch": 2}),
                lambda: held.finish({}),
                lambda: held.start(RECIPE, {}),
                lambda: held.keep_epochs(0),
            ]
            for act in acts:
                with pytest.raises(InputError, match="lock of this run was removed"):
                    act()
            other.take_epochs([{"epoch": 1}])
            other.add_epoch({"epoch": 2})
    assert [line["epoch"] for line in run.metrics] == [1, 2]


def write_and_die(run):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: processes.kill_self())
        run.finish({})


def test_what_killed_processes_left_half_written_is_deleted(run, tmp_path):
    process = processes.forked(write_and_die, run, log=tmp_path / "log")
    assert processes.exit_code(process) == -signal.SIGKILL
    assert [path.name for path in run.path.iterdir()] == [f".summary.json.{process.pid}.tmp"]
    other = {f".report.html.{os.getppid()}.tmp", ".notes.tmp", "own.1.tmp"}
    for name in other:
        (run.path / name).touch()
    with run.locked():
        assert {path.name for path in run.path.iterdir()} == other | {"lock"}, "a living process writes one"


def refuse(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


@pytest.mark.parametrize(
    ("hindrance", "told"),
    [
        ("a file in its way", "cannot write the run directory(.|\n)*Not a directory(.|\n)*--out DIR"),
        ("no permission", "cannot write the run directory"),
        ("no locks", f"cannot lock(.|\n)*{os.strerror(errno.ENOLCK)}"),
    ],
)
def test_a_directory_that_cannot_be_written(hindrance, told, tmp_path, monkeypatch):
    place = tmp_path / "digits"
    if hindrance == "a file in its way":
        place.write_text("")
    elif hindrance == "no locks":
        monkeypatch.setattr(fcntl, "flock", refuse)
    elif os.geteuid() == 0:
        pytest.skip("permissions do not bind the superuser")
    else:
        place.mkdir(0o500)
    with pytest.raises(InputError, match=told):
        Run.of(RECIPE, tmp_path).locked().__enter__()


def test_a_read_only_file_system(tmp_path):
    run = Run.of(RECIPE, tmp_path / "disk")
    with full_disk.small_disk(tmp_path / "disk", 1000) as remount:
        for begun, told in ((False, "cannot write the run directory"), (True, "cannot lock the file")):
            if begun:
                remount("rw")
                run.path.mkdir(parents=True)
            remount("ro")
            with pytest.raises(InputError, match=rf"{told}(.|\n)*Read-only file system"), run.locked():
                pass
