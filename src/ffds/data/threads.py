"""Threads for work on many images, whose libraries let go of the interpreter lock."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from ffds.environment import usable_cores

__all__ = ["image_threads"]

MOST = 8
"""More only wait for the disk and for memory."""


def image_threads() -> ThreadPoolExecutor:
    """One for each core that this process may use, within reason: to decode, encode or hash."""
    return ThreadPoolExecutor(min(MOST, usable_cores()))
