"""SIGTERM and SIGINT: finish the step, save, leave; before training, and the second time, leave at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, ClassVar, Self

from ffds.errors import Interrupted

__all__ = ["StopSignals", "stop_at_once"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """While entered, the first SIGTERM or SIGINT sets `requested`; on exit the former handlers are restored.

    Where several are entered, one within another, a signal sets `requested` on all of them: a request that
    comes too late for one run still stops the command that trains many. Python handles signals in the main
    thread only; entered in another thread this never requests anything.
    """

    _entered: ClassVar[list[StopSignals]] = []

    @classmethod
    def any_requested(cls) -> signal.Signals | None:
        """The signal that came while one of those entered now was in charge, if any."""
        return next((one.requested for one in cls._entered if one.requested is not None), None)

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._entered.append(self)
            self._former = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        if self._former:
            self._entered.remove(self)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        for one in self._entered:
            one.requested = signal.Signals(number)


@contextmanager
def stop_at_once() -> Iterator[None]:
    """While entered, SIGTERM and SIGINT end the work wherever the main thread is, also in a wait.

    It is for work that has nothing to save, such as imports and the opening of data. A second signal ends the
    process. In another thread this changes nothing.

    Raises:
        Interrupted: a signal came, or had been requested before from an entered `StopSignals`.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        # As Ctrl-C does: libraries that catch every Exception while they are imported do not catch it.
        raise KeyboardInterrupt(signal.Signals(number).name)

    former: dict[signal.Signals, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            former = {number: signal.signal(number, stop) for number in _SIGNALS}
        if earlier := StopSignals.any_requested():
            raise KeyboardInterrupt(earlier.name)
        yield
    except KeyboardInterrupt as interrupt:
        name = str(interrupt) or "SIGINT"
        raise Interrupted(f"{name}: stopped; the same command goes on from what was saved before") from None
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
