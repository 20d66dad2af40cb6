"""Standard error as another thread reads it while it is written."""

import contextlib
import io
import time
from collections.abc import Callable

from tests.training.processes import LIMIT

__all__ = ["Said", "heard"]


class Said(io.StringIO):
    def wait_for(self, text: str, alive: Callable[[], bool] = lambda: True) -> None:
        """Until `text` was said; whoever is to say it has to be alive so long."""
        end = time.monotonic() + LIMIT
        while text not in self.getvalue():
            assert alive(), f"ended and said only: {self.getvalue()}"
            assert time.monotonic() < end, f"said only: {self.getvalue()}"
            time.sleep(0.001)


def heard() -> contextlib.redirect_stderr[Said]:
    """What is said inside of the block; as a fixture, pytest's own capturing would take its place."""
    return contextlib.redirect_stderr(Said())
