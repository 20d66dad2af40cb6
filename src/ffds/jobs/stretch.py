"""One stretch as a process of its own: ``python -m ffds.jobs.stretch``, started by `ffds.jobs.cluster`.

The process reads its order as one line of JSON from standard input, which then stays open: when it closes,
whoever started the process is gone, and it saves its state and ends. It reports progress on standard error,
writes why it failed to standard output, and ends with the exit codes of ``ffds train``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from ffds.environment import collect_rarely
from ffds.errors import FfdsError

__all__ = ["Order", "main"]


@dataclass(frozen=True)
class Order:
    """What a process is to train.

    Attributes:
        recipe: as JSON.
        out: directory of all runs.
        until: epochs of the run after which to stop.
        branches: epochs after which to leave a checkpoint for other runs.
        directory: where the command runs; relative paths of the recipe begin there.
        arguments: of the command, which the run notes.
        threads: OMP_NUM_THREADS of the command, empty where it is not set.
    """

    recipe: str
    out: str
    until: int
    branches: Sequence[int]
    directory: str
    arguments: Sequence[str]
    threads: str


def main() -> int:
    """Carry out the order on standard input, and return the exit code."""
    collect_rarely()
    order = Order(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_stop_when_stdin_closes, daemon=True).start()
    sys.argv, answer, sys.stdout = list(order.arguments), sys.stdout, sys.stderr
    from ffds.jobs.engine import train_stretch
    from ffds.recipes.schema import Recipe

    try:
        recipe = Recipe.model_validate_json(order.recipe)
        train_stretch(recipe, order.out, until=order.until, branches=order.branches)
    except FfdsError as error:
        print(error, end="", file=answer, flush=True)
        return error.exit_code
    return 0


def _stop_when_stdin_closes() -> None:
    # Not sys.stdin, whose lock a thread must not hold when the process ends.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
