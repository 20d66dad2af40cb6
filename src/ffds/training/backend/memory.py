"""Freed memory kept for the next training step, in huge pages."""

from __future__ import annotations

import ctypes
import mmap
import platform

__all__ = ["keep_freed_memory"]

# Numbers of malloc.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
LARGEST = 2**31 - 1

_MAPPED = 2**30
"""Bytes from which malloc maps memory of its own, instead of taking them from the heap."""
_AHEAD = _MAPPED - 2**20
"""Bytes of address space by which the heap grows in advance."""


def keep_freed_memory() -> bool:
    """Have glibc keep what this process frees, instead of giving it back to the system after each step.

    A training step on the CPU frees its activations and allocates them again; the kernel would have to clear
    every page anew, a fifth of the time of a step of ResNet-32. The process holds no more than its own peak.

    The heap also asks for pages of 2 MiB, where Linux gives them to those that ask. A step goes through
    hundreds of MiB; in pages of 4 KiB it waits for their addresses, in one process longer than in the next.

    Returns:
        Whether there is a glibc that does so; other C libraries stay as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    wanted = {TRIM_THRESHOLD: LARGEST, MMAP_THRESHOLD: _MAPPED, TOP_PAD: 2**26}
    kept = all(libc.mallopt(name, value) == 1 for name, value in wanted.items())
    if kept:
        _ask_for_huge_pages(libc)
    return kept


def _ask_for_huge_pages(libc: ctypes.CDLL) -> None:
    """For what the heap has yet to grow by; address space only, until a tensor is written there."""
    libc.sbrk.argtypes, libc.sbrk.restype = [ctypes.c_ssize_t], ctypes.c_void_p
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.free.argtypes, libc.free.restype = [ctypes.c_void_p], None
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    start = -(-libc.sbrk(0) // mmap.PAGESIZE) * mmap.PAGESIZE
    libc.free(libc.malloc(_AHEAD))
    length = libc.sbrk(0) - start
    # A kernel without huge pages refuses, and nothing is lost.
    if length > 0:
        libc.madvise(start, length, mmap.MADV_HUGEPAGE)
