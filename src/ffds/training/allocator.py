"""Freed memory kept for the next training step."""

from __future__ import annotations

import ctypes
import platform

__all__ = ["keep_freed_memory"]

# Numbers of malloc.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have glibc keep what this process frees, instead of giving it back to the system after each step.

    A training step on the CPU frees its activations and allocates them again; the kernel would have to clear
    every page anew, a fifth of the time of a step of ResNet-32. The process holds no more than its own peak.

    Returns:
        Whether there is a glibc that does so; other C libraries stay as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    wanted = {TRIM_THRESHOLD: LARGEST, MMAP_THRESHOLD: 2**30, TOP_PAD: 2**26}
    return all(mallopt(name, value) == 1 for name, value in wanted.items())
