"""Python's collector of reference cycles, in a process that runs one command and then ends."""

from __future__ import annotations

import atexit
import gc

__all__ = ["collect_rarely"]

_THRESHOLDS = 10_000, 10, 10


def collect_rarely() -> None:
    """Collect after some thousands of new objects, not some hundreds, and not at the end of the process.

    To import torch and its compiler makes most of a million objects, none of which goes before the process
    does: to look through them again and again is a fifth of that start, and once more takes up to a second
    at the end. Objects outside of cycles, open files among them, are closed as ever.
    """
    gc.set_threshold(*_THRESHOLDS)
    atexit.register(gc.freeze)
