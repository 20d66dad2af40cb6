"""SIGTERM and SIGINT: finish the step, save, leave; a second signal leaves at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any, ClassVar, Self

__all__ = ["StopSignals"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """While entered, the first SIGTERM or SIGINT sets `requested`; on exit the former handlers are restored.

    Where several are entered, one within another, a signal sets `requested` on all of them: a request that
    comes too late for one run still stops the command that trains many. Python handles signals in the main
    thread only; entered in another thread this never requests anything.
    """

    _entered: ClassVar[list[StopSignals]] = []

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
