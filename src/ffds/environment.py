"""Where a number was measured (hardware, versions, commit, command), and which rank this process is."""

from __future__ import annotations

import atexit
import gc
import os
import platform
import re
import shlex
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path

__all__ = ["collect_rarely", "commit", "environment", "hardware", "usable_cores", "versions"]
__all__ += ["is_first_rank", "is_rank", "ranks", "ranks_here"]

_PACKAGES = ("ffds", "torch", "numpy", "torchvision", "timm", "lightning-fabric")


def environment(accelerator: str | None = None) -> dict[str, object]:
    """Everything a reader needs to judge a number; `accelerator` is its name, e.g. ``NVIDIA H100``."""
    program = Path(sys.argv[0])
    # `python -m ffds` is noted as the `ffds` that a reader can type.
    name = "ffds" if program == Path(__file__).with_name("__main__.py") else program.name
    # Run directories are shared: leave out the password of a database.
    command = re.sub(r"(://[^:/@\s]*):[^@\s]+@", r"\1:***@", shlex.join([name, *sys.argv[1:]]))
    where = {"hardware": hardware(accelerator), "versions": versions()}
    return {**where, "commit": commit(), "command": command}


def hardware(accelerator: str | None = None) -> str:
    """Processor, usable cores and accelerator in one line."""
    lines: list[str] = []
    with suppress(OSError):  # Linux only
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    processor = next(names, platform.processor() or platform.machine())
    return (f"{accelerator}; " if accelerator else "") + f"{usable_cores()} cores of {processor}"


@cache
def versions() -> dict[str, str]:
    """Version of Python and of each package that decides a result, read once, without importing it."""
    installed = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            installed[package] = metadata.version(package)
    return installed


def commit() -> str | None:
    """Commit of the checkout this package runs from, ``+`` appended for local changes; None if installed."""
    here = Path(__file__)
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None
    head = _git(here.parent, "rev-parse", "--short=12", "HEAD")
    changed = _git(here.parent, "status", "--porcelain", "--untracked-files=no", "--", ".")
    return f"{head}+" if head and changed else head


def _git(directory: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(directory), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def usable_cores() -> int:
    """Cores that this process may use."""
    # sched_getaffinity sees a container's limit, cpu_count does not; it exists on Linux only.
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def collect_rarely() -> None:
    """Look for garbage in cycles seldom: among the objects of torch that takes a fifth of a start."""
    gc.set_threshold(10_000, 10, 10)
    atexit.register(gc.freeze)


def is_rank() -> bool:
    """Whether torchrun or Fabric started this process as one of several."""
    return bool(_first_set("RANK", "LOCAL_RANK"))


def is_first_rank() -> bool:
    """Whether this process is the first of several, or the only one."""
    return int(_first_set("RANK", "LOCAL_RANK") or 0) == 0


def ranks() -> int:
    """Number of processes that train together, on all machines."""
    return int(_first_set("WORLD_SIZE") or 1)


def ranks_here() -> int:
    """Number of processes on this machine that train together."""
    return int(_first_set("LOCAL_WORLD_SIZE", "WORLD_SIZE") or 1)


def _first_set(*names: str) -> str:
    """The value of the first of some environment variables that is set."""
    return next((os.environ[name] for name in names if os.environ.get(name)), "")
