"""One of the processes that share the runs of a command: ``python -m ffds.jobs.worker ORDER``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ffds.errors import Interrupted
from ffds.jobs.journal import Journal
from ffds.jobs.plan import OpenData, Planned, plan
from ffds.jobs.share import Share
from ffds.jobs.workers import begin_work
from ffds.recipes.schema import Recipe

__all__ = ["main"]


def main() -> int:
    """Train what nobody else trains of the runs in the order, and return the exit code."""
    order, lines = begin_work()
    journal = Journal(Path(order["journal"]))

    @contextmanager
    def training(one: Planned) -> Iterator[None]:
        journal.begin(order["place"], one.run.path)
        with lines.prefixed(f"{one.place}: "):
            try:
                yield
            except Interrupted as error:
                if order["shown"]:
                    print(error, file=sys.stderr)
                raise

    out, data = Path(order["out"]), OpenData()
    recipes = [Recipe.model_validate_json(text) for text in order["recipes"]]
    try:
        Share(out, order["shown"], journal, training, data).train(plan(recipes, out, data))
    except Interrupted as error:
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
