"""``ffds``, ``python -m ffds``: the command line as a process of its own, also under torchrun."""

import sys

from ffds.cli import main
from ffds.environment import collect_rarely

__all__ = ["run"]


def run() -> int:
    """Run the command that this process is for, and return its exit code."""
    collect_rarely()
    return main()


if __name__ == "__main__":
    sys.exit(run())
