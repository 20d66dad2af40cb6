"""One stretch as a process of its own: ``python -m ffds.jobs.stretch``, started by `ffds.jobs.cluster`.

The process reads one line of JSON from standard input: the recipe (as JSON), the directory of all runs, the
epoch after which to stop, those after which to leave a checkpoint for other runs, and the arguments of the
command. When standard input closes, whoever started the process is gone: it saves its state and ends. It
reports progress on standard error and why it failed on standard output; its exit codes are those of `train`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading

from ffds.environment import collect_rarely
from ffds.errors import FfdsError, memory_may_run_out

__all__ = ["main"]


def main() -> int:
    """Carry out the order on standard input, and return the exit code."""
    collect_rarely()
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_stop_when_stdin_closes, daemon=True).start()
    sys.argv, answer, sys.stdout = order["arguments"], sys.stdout, sys.stderr
    try:
        with memory_may_run_out():
            from ffds.jobs.engine import train_stretch
            from ffds.recipes.schema import Recipe

            recipe = Recipe.model_validate_json(order["recipe"])
            train_stretch(recipe, order["out"], until=order["until"], branches=order["branches"])
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
