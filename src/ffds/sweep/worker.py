"""One of the processes that share the trials of a sweep: ``python -m ffds.sweep.worker ORDER``."""

from __future__ import annotations

import sys
from pathlib import Path

from ffds.errors import FfdsError, Interrupted
from ffds.jobs.journal import Journal
from ffds.jobs.workers import begin_work
from ffds.sweep.recipe import searched_recipe
from ffds.sweep.search import Search

__all__ = ["main"]


def main() -> int:
    """Train trials until the study of the order has as many as it is to have, and return the exit code."""
    order, _ = begin_work()
    out = Path(order["out"])
    try:
        recipe = searched_recipe(order["recipe"], order["overrides"])
        search = Search.prepared(recipe, order["study"], order["storage"], out, shown=order["shown"])
        search.work(order["trials"])
    except Interrupted as error:
        return error.exit_code
    except FfdsError as error:
        Journal(Path(order["journal"])).fail({out: error})
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
