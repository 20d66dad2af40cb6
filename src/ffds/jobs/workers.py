"""Processes that share the work of one command: they start with it, hear its signals, and end with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ffds.environment import collect_rarely
from ffds.jobs.lines import PrefixedLines
from ffds.training.signals import StopSignals

__all__ = ["Workers", "begin_work", "how_it_ended"]

_SECONDS = 0.1
_STDERR = 2


class Workers:
    """Processes of a module, each with an order to carry out; on exit none is left.

    A process has a session of its own: Ctrl-C on a terminal reaches the command alone, which passes it on
    once. Its standard input is a pipe that nobody writes to: it closes when the command ends in whatever way,
    and the process then saves and ends.

    Args:
        module: run as ``python -m MODULE``; calls `begin_work` first.
        orders: one process for each.
        environments: of each process, beside what this one has.
        directory: for the orders, of this command alone.
    """

    def __init__(
        self,
        module: str,
        orders: Sequence[Mapping[str, Any]],
        environments: Sequence[Mapping[str, str]],
        directory: Path,
    ) -> None:
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        for place, (order, environment) in enumerate(zip(orders, environments, strict=True)):
            file = directory / f"order-{place}.json"
            file.write_text(json.dumps({"arguments": sys.argv, **order}), encoding="utf-8")
            self._running[place] = subprocess.Popen(
                [sys.executable, "-m", module, str(file)],
                env=os.environ | environment,
                stdin=subprocess.PIPE,
                stdout=_STDERR,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._running.values():
            if process.stdin is not None:
                process.stdin.close()
            process.wait()

    def ended(self, interruption: StopSignals) -> Iterator[tuple[int, int]]:
        """Place and exit code of each process as it ends, minus the signal that ended it.

        Args:
            interruption: passed on to all processes when it comes, as SIGTERM.
        """
        passed_on = False
        while self._running:
            if interruption.requested is not None and not passed_on:
                passed_on = True
                for process in self._running.values():
                    # Also for SIGINT, which Python answers with a traceback while it is still importing.
                    process.terminate()
            for place, process in list(self._running.items()):
                if (code := process.poll()) is not None:
                    self._drop(place)
                    yield place, code
            time.sleep(_SECONDS)

    def _drop(self, place: int) -> None:
        stdin = self._running.pop(place).stdin
        if stdin is not None:
            stdin.close()


def begin_work() -> tuple[dict[str, Any], PrefixedLines]:
    """In one of the processes: its order, and the stream of its lines, in place of the standard ones.

    From now on the process ends as if by SIGTERM when the command does.
    """
    collect_rarely()
    order: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    # A run notes the command that a reader can type.
    sys.argv = order["arguments"]
    lines: Any = PrefixedLines(sys.stderr)
    sys.stdout = sys.stderr = lines
    threading.Thread(target=_end_with_the_command, daemon=True).start()
    return order, lines


def how_it_ended(code: int) -> str:
    """The end of a process in words.

    >>> how_it_ended(-9), how_it_ended(1)
    ('was ended by SIGKILL', 'ended with exit code 1')
    """
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _end_with_the_command() -> None:
    # Not sys.stdin, whose lock a thread must not hold when the process ends.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
