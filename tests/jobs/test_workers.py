"""Processes of a command: what they get, how their end is seen, and that none survives it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ffds.jobs.workers import Workers
from ffds.training.signals import StopSignals
from tests.training import processes

MODULE = "tests.training.told"


def orders(directory, *, waits=True, codes=(0, 0)):
    return [
        {"place": str(directory / f"worker{place}"), "waits": waits, "code": code}
        for place, code in enumerate(codes)
    ]


def started(directory, **how):
    wanted = orders(directory, **how)
    return Workers(MODULE, wanted, [{"MARK": f"m{place}"} for place in range(len(wanted))], directory)


def pids(directory, number=2):
    """Once all processes are there."""
    files = [directory / f"worker{place}" for place in range(number)]
    end = time.monotonic() + processes.LIMIT
    while not all(file.exists() and file.read_text() for file in files):
        assert time.monotonic() < end
        time.sleep(0.005)
    return [int(file.read_text()) for file in files]


def asked(directory):
    return sorted(file.name for file in directory.glob("*.asked"))


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_order_environment_and_lines(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ffds", "compare", "a b"])
    with StopSignals() as interruption, started(tmp_path, waits=False, codes=(0, 7)) as workers:
        assert dict(workers.ended(interruption)) == {0: 0, 1: 7}
    out, err = capfd.readouterr()
    assert out == "", "standard output is that of the command alone"
    lines = err.splitlines()
    for place in range(2):
        assert f"worker{place}: arguments ffds compare a b" in lines
        assert f"worker{place}: MARK m{place}" in lines


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_to_all(number, tmp_path):
    with StopSignals() as interruption, started(tmp_path, codes=(75, 75)) as workers:
        pids(tmp_path)
        signal.raise_signal(number)
        assert dict(workers.ended(interruption)) == {0: 75, 1: 75}
    assert asked(tmp_path) == ["worker0.asked", "worker1.asked"]


def test_the_end_of_one_is_told_while_the_other_works(tmp_path):
    with StopSignals() as interruption, started(tmp_path) as workers:
        first, second = pids(tmp_path)
        os.kill(first, signal.SIGKILL)
        ends = workers.ended(interruption)
        assert next(ends) == (0, -signal.SIGKILL)
        assert is_alive(second)
        os.kill(second, signal.SIGTERM)
        assert list(ends) == [(1, 0)]


def test_nobody_is_left_when_the_command_fails(tmp_path):
    found = []

    def fails():
        with started(tmp_path):
            found.extend(pids(tmp_path))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert len(found) == 2
    assert not any(map(is_alive, found))
    assert asked(tmp_path) == ["worker0.asked", "worker1.asked"], "they could save"


def test_nobody_is_left_when_the_command_is_killed(tmp_path):
    code = (
        "from pathlib import Path\n"
        "from ffds.training.signals import StopSignals\n"
        "from ffds.jobs.workers import Workers\n"
        f"started = Workers({MODULE!r}, {orders(tmp_path)!r}, [{{}}, {{}}], Path({str(tmp_path)!r}))\n"
        "with StopSignals() as asked, started as workers: [*workers.ended(asked)]"
    )
    command = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    found = pids(tmp_path)
    command.kill()
    command.wait()
    end = time.monotonic() + processes.LIMIT
    while len(asked(tmp_path)) < 2:
        assert time.monotonic() < end, "they do not notice"
        time.sleep(0.005)
    assert len(found) == 2
