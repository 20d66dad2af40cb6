"""Where a number was measured, and which rank a process is."""

import importlib.util
import platform
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

import ffds.environment as module
from ffds.environment import commit, environment, hardware, usable_cores, versions


def test_versions_of_what_is_installed():
    known = versions()
    assert next(iter(known.items())) == ("python", platform.python_version())
    assert known["numpy"] == np.__version__
    assert known["ffds"] == metadata.version("ffds")
    assert set(known) >= {"torch", "torchvision", "timm", "lightning-fabric"}


def test_hardware(monkeypatch):
    cores = f"{usable_cores()} cores of "
    assert hardware().startswith(cores)
    assert len(hardware()) > len(cores)
    assert hardware("NVIDIA H100") == f"NVIDIA H100; {hardware()}"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError))
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert hardware() == f"{cores}{platform.machine()}", "without /proc"


def test_environment(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/ffds", "train", "a b.yaml", "data.root=x y"])
    told = {"hardware": hardware("NVIDIA H100"), "versions": versions(), "commit": commit()}
    assert environment("NVIDIA H100") == told | {"command": "ffds train 'a b.yaml' 'data.root=x y'"}


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["ffds", "--storage", "pg+psycopg://me:se-cret!@host/x"], "pg+psycopg://me:***@host/x"),
        (["ffds", "--storage", "postgresql://me@host/x"], "ffds --storage postgresql://me@host/x"),
        (["ffds", "a@b:c"], "ffds a@b:c"),
        ([str(Path(module.__file__).with_name("__main__.py")), "train", "digits"], "ffds train digits"),
        (["/elsewhere/__main__.py", "train"], "__main__.py train"),
    ],
)
def test_the_command_can_be_typed_and_has_no_password(arguments, command, monkeypatch):
    monkeypatch.setattr(sys, "argv", arguments)
    assert " ".join(shlex.split(environment()["command"])).endswith(command)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_commit(tmp_path, monkeypatch):
    """Of a checkout of its own, with a copy of the module in it."""

    def git(*arguments):
        who = ("-c", "user.name=Test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
        return subprocess.check_output(["git", "-C", tmp_path, *who, *arguments], text=True).strip()

    git("init", "-q")
    copied = tmp_path / "copied.py"
    shutil.copy(module.__file__, copied)
    spec = importlib.util.spec_from_file_location("copied", copied)
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    assert copy.commit() is None, "not under version control"
    git("add", copied)
    git("commit", "-q", "-m", "first")
    head = git("rev-parse", "HEAD")[:12]
    assert copy.commit() == head
    (tmp_path / "untracked.txt").write_text("results and the like change nothing")
    assert copy.commit() == head
    with copied.open("a") as file:
        file.write("# changed\n")
    assert copy.commit() == f"{head}+"
    monkeypatch.setenv("PATH", "")
    assert copy.commit() is None, "without git"


TORCHRUN = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}


@pytest.mark.parametrize(
    ("variables", "rank", "first", "here", "everywhere"),
    [
        pytest.param({}, False, True, 1, 1, id="alone"),
        pytest.param(dict.fromkeys(TORCHRUN, ""), False, True, 1, 1, id="set to nothing"),
        pytest.param(TORCHRUN, True, False, 4, 8, id="torchrun"),
        pytest.param(TORCHRUN | {"RANK": "0", "LOCAL_RANK": "0"}, True, True, 4, 8, id="torchrun, first"),
        pytest.param(TORCHRUN | {"RANK": "4", "LOCAL_RANK": "0"}, True, False, 4, 8, id="second machine"),
        pytest.param({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, True, False, 2, 2, id="started by Fabric"),
    ],
)
def test_rank(variables, rank, first, here, everywhere, monkeypatch):
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    told = module.is_rank(), module.is_first_rank(), module.ranks_here(), module.ranks()
    assert told == (rank, first, here, everywhere)


def test_the_library_leaves_the_garbage_collector_alone():
    code = "import gc; was = gc.get_threshold(); import ffds.training.train; print(was == gc.get_threshold())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "True\n"
