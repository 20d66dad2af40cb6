"""What a launcher such as torchrun told this process about those that train one run together."""

from __future__ import annotations

import os

__all__ = ["is_first_rank", "is_rank", "ranks", "ranks_here"]


def is_rank() -> bool:
    """Whether a launcher started this process as one of several."""
    return bool(_told("RANK", "LOCAL_RANK"))


def is_first_rank() -> bool:
    """Whether this process speaks for all: it is the first of them, or the only one."""
    return int(_told("RANK", "LOCAL_RANK") or 0) == 0


def ranks() -> int:
    """Processes that train together, on all machines."""
    return int(_told("WORLD_SIZE") or 1)


def ranks_here() -> int:
    """Processes on this machine that train together."""
    return int(_told("LOCAL_WORLD_SIZE", "WORLD_SIZE") or 1)


def _told(*names: str) -> str:
    """The first of some variables that is set."""
    return next((os.environ[name] for name in names if os.environ.get(name)), "")
