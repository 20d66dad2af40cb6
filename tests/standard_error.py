"""Standard error as another thread reads it while it is written."""

import contextlib
import io
import time
from collections.abc import Callable

from tests.training.processes import LIMIT

__all__ = ["StandardError", "captured_stderr"]


class StandardError(io.StringIO):
    def wait_for(self, text: str, alive: Callable[[], bool] = lambda: True) -> None:
        """Wait until `text` was written, while whatever writes it is alive."""
        end = time.monotonic() + LIMIT
        while text not in self.getvalue():
            assert alive(), f"ended and wrote only: {self.getvalue()}"
            assert time.monotonic() < end, f"wrote only: {self.getvalue()}"
            time.sleep(0.001)


def captured_stderr() -> contextlib.redirect_stderr[StandardError]:
    """Captures standard error in the block; as a fixture, pytest's own capturing would take its place."""
    return contextlib.redirect_stderr(StandardError())
