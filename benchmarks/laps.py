"""Two long trainings in processes of their own, of which one works while the other waits."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["Laps", "Side"]


class Laps:
    """The inside: counts laps, and waits for leave before each.

    Args:
        connection: to the `Side` outside.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._began = 0.0

    def start(self) -> None:
        """Everything is set up; wait for leave to begin the first lap."""
        self._connection.send(None)
        self._wait()

    def done(self, part: float = 0.0) -> None:
        """A lap is done; report it and wait for leave to begin the next.

        Args:
            part: seconds of the lap that the outside wants to know apart.
        """
        self._connection.send((time.perf_counter() - self._began, part, _peak_memory()))
        self._wait()

    def _wait(self) -> None:
        self._connection.recv()
        self._began = time.perf_counter()


class Side:
    """The outside: a process that works only while a lap is asked for.

    Args:
        work: (laps, …) → None, importable; it calls ``laps.start()``, then ``laps.done()`` after each lap.
        arguments: handed to it.

    Attributes:
        part: of the last lap, the seconds that its process told apart.
        peak_memory: largest resident memory of the process so far, in MiB; its children not counted.
    """

    def __init__(self, work: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.part = self.peak_memory = 0.0
        self._connection, theirs = context.Pipe()
        # A spawned process would spawn its loader workers too, which costs the yardstick seconds an epoch.
        platform_default = multiprocessing.get_start_method()
        self._process = context.Process(target=_inside, args=(platform_default, work, theirs, *arguments))
        self._process.start()
        theirs.close()
        self._connection.recv()

    def lap(self) -> float:
        """Let it work for one lap.

        Returns:
            Seconds.
        """
        self._connection.send(None)
        seconds, self.part, self.peak_memory = self._connection.recv()
        return float(seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._connection.send(None)
        else:
            self._process.terminate()
        self._process.join()


def _inside(start_method: str, work: Callable[..., None], connection: Connection, *arguments: Any) -> None:
    multiprocessing.set_start_method(start_method, force=True)
    work(Laps(connection), *arguments)


def _peak_memory() -> float:
    """Of this process, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        # On Linux getrusage would not do: a child inherits the peak of its parent.
        lines = status.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
