"""Where a number was measured."""

import importlib.util
import os
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
from ffds.environment import commit, environment, hardware, versions


def test_versions():
    found = versions()
    assert next(iter(found)) == "python"
    assert found["python"] == platform.python_version()
    assert found["numpy"] == np.__version__
    assert found["ffds"] == metadata.version("ffds")
    assert set(found) >= {"torch", "torchvision", "timm", "lightning-fabric"}


def test_versions_leave_out_what_is_not_installed(monkeypatch):
    monkeypatch.setattr(module, "_PACKAGES", ("numpy", "surely-not-installed"))
    assert list(versions()) == ["python", "numpy"]


def test_hardware():
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    assert hardware().startswith(f"{cores} cores of ")
    assert len(hardware()) > len(f"{cores} cores of ")
    assert hardware("NVIDIA H100") == f"NVIDIA H100; {hardware()}"


def test_hardware_without_proc(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert hardware().endswith(f" cores of {platform.machine()}")


def test_environment(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/ffds", "train", "a b.yaml", "data.root=x y"])
    found = environment("NVIDIA H100")
    assert list(found) == ["hardware", "versions", "commit", "command"]
    assert found["hardware"] == hardware("NVIDIA H100")
    assert found["versions"] == versions()
    assert found["commit"] == commit()
    assert shlex.split(found["command"]) == ["ffds", "train", "a b.yaml", "data.root=x y"]


@pytest.mark.parametrize(
    ("given", "noted"),
    [
        ("postgresql+psycopg://me:se-cret!@host/study", "postgresql+psycopg://me:***@host/study"),
        ("postgresql://me@host/study", "postgresql://me@host/study"),
        ("a@b:c", "a@b:c"),
    ],
)
def test_a_password_is_not_noted(given, noted, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ffds", "sweep", "digits", "--storage", given])
    assert shlex.split(environment()["command"])[-1] == noted


def test_command_of_the_module_is_one_that_can_be_typed(monkeypatch):
    main = Path(module.__file__).with_name("__main__.py")
    assert main.is_file()
    monkeypatch.setattr(sys, "argv", [str(main), "train", "digits"])
    assert environment()["command"] == "ffds train digits"
    monkeypatch.setattr(sys, "argv", ["/elsewhere/__main__.py", "train"])
    assert environment()["command"] == "__main__.py train"


@pytest.fixture
def checkout(tmp_path):
    """A checkout of its own, with a copy of the module in it."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    copied = tmp_path / "src" / "environment.py"
    copied.parent.mkdir()
    shutil.copy(module.__file__, copied)
    git(tmp_path, "init", "-q")
    spec = importlib.util.spec_from_file_location("copied_environment", copied)
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    return tmp_path, copy


def git(directory, *arguments):
    who = ("-c", "user.name=Test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", "-C", directory, *who, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_commit(checkout):
    directory, copy = checkout
    assert copy.commit() is None, "not under version control"
    git(directory, "add", "src")
    git(directory, "commit", "-q", "-m", "first")
    head = git(directory, "rev-parse", "HEAD")[:12]
    assert copy.commit() == head
    (directory / "src" / "untracked.txt").write_text("results and the like change nothing")
    (directory / "other.txt").write_text("")
    assert copy.commit() == head
    with (directory / "src" / "environment.py").open("a") as file:
        file.write("# changed\n")
    assert copy.commit() == f"{head}+"


def test_commit_without_git(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    assert commit() is None
