"""A process of `Workers` that does what its order says: ``python -m tests.training.told ORDER``."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from ffds.jobs.workers import begin_work
from ffds.training.signals import StopSignals


def main() -> int:
    """Wait for a signal, or end at once, as the order has it."""
    order, lines = begin_work()
    place = Path(order["place"])
    with StopSignals() as stop_signals, lines.prefixed(f"{place.name}: "):
        print("arguments", *sys.argv)
        print("MARK", os.environ.get("MARK"))
        place.write_text(str(os.getpid()))
        while order["waits"] and stop_signals.requested is None:
            time.sleep(0.01)
        if stop_signals.requested is not None:
            place.with_suffix(".asked").write_text(stop_signals.requested.name)
    return int(order["code"])


if __name__ == "__main__":
    sys.exit(main())
