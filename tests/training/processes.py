"""Processes to be killed: forked from one that has everything imported, or started from nothing."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

LIMIT = 300
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["ffds.cli", "ffds.training.train", "sklearn.datasets"])

_started: list[BaseProcess | subprocess.Popen[bytes]] = []


def forked(
    act: Callable[..., Any], *arguments: Any, log: Path, environment: dict[str, str] | None = None
) -> BaseProcess:
    """A process that does `act`, a function of a module, and exits with what it returns."""
    process = CONTEXT.Process(target=_child, args=(act, arguments, log, environment or {}))
    process.start()
    _started.append(process)
    return process


def started(*command: str, log: Path) -> subprocess.Popen[bytes]:
    """A process of a command line."""
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    _started.append(process)
    return process


def ranks(act: Callable[..., Any], *arguments: Any, log: Path, world_size: int = 2) -> list[BaseProcess]:
    """One process a rank, as torchrun would start them; `act` gets the rank in front of its arguments."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    group |= {"GROUP_RANK": "0", "WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
    started = []
    for rank in range(world_size):
        environment = group | dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank))
        own_log = log.with_name(f"{log.name}-rank{rank}")
        started.append(forked(act, rank, *arguments, log=own_log, environment=environment))
    return started


def exit_code(process: BaseProcess | subprocess.Popen[bytes]) -> int | None:
    """Its exit code, minus the signal that ended it; it has to end in time."""
    if isinstance(process, subprocess.Popen):
        return process.wait(LIMIT)
    process.join(LIMIT)
    assert process.exitcode is not None, f"process {process.pid} does not end"
    return process.exitcode


def wait_for(found: Callable[[], object], process: BaseProcess | subprocess.Popen[bytes]) -> None:
    """Until something is there; the process that makes it has to be alive so long."""
    end = time.monotonic() + LIMIT
    while not found():
        ended = process.poll() if isinstance(process, subprocess.Popen) else process.exitcode
        assert ended is None, f"ended with {ended} too early"
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.001)


def wait_for_end(process: int) -> None:
    """Wait for a process that is no child of this one, which lets its locks go before it is gone."""
    end = time.monotonic() + LIMIT
    while Path(f"/proc/{process}").exists():
        assert time.monotonic() < end, f"process {process} goes on"
        time.sleep(0.01)


def kill_all() -> None:
    """Whatever a failed test has left; a launcher gets the time to end its own processes."""
    while _started:
        process = _started.pop()
        if isinstance(process, subprocess.Popen) and process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
        process.kill()


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _child(act: Callable[..., Any], arguments: Any, log: Path, environment: dict[str, str]) -> None:
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    torch.set_num_threads(1)
    sys.exit(act(*arguments))
