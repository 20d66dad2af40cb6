"""Saying how far long work on data has come: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

__all__ = ["TrainingProgress", "counted", "epoch_line"]


class TrainingProgress:
    """Progress of one run on standard error.

    Args:
        title: what is trained, e.g. ``digits d-ffds seed 0``.
        epochs: all epochs of the run.
        steps: steps of one epoch.
        shown: False on all ranks but the first, or where a caller wants silence.
    """

    def __init__(self, title: str, epochs: int, steps: int, *, shown: bool = True) -> None:
        self._title, self._epochs, self._steps, self._shown = title, epochs, steps, shown
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[results]}"),
            _Rate(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (shown and sys.stderr.isatty()),
        )
        self._task = self._bar.add_task(title, total=epochs * steps, results="", images=0)
        self._began = time.monotonic()
        self._steps_here = 0

    def __enter__(self) -> Self:
        self._bar.start()
        if self._bar.disable:
            self.say(f"{self._title}: {self._epochs} epochs of {self._steps} steps")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def resume(self, epoch: int, step: int, why: str = "going on") -> None:
        """Say where training begins.

        Args:
            epoch: epochs done.
            step: steps done in the next one.
            why: nothing has to be done before.
        """
        self._bar.reset(self._task, completed=epoch * self._steps + step)
        self.say(f"{self._title}: {why} after epoch {epoch}" + (f", step {step}" if step else ""))

    def say(self, message: str) -> None:
        """Print a line."""
        if not self._bar.disable:
            self._console.print(message, markup=False, highlight=False)
        elif self._shown:
            print(message, file=sys.stderr, flush=True)

    def step(self, images: int) -> None:
        """One training step with this many images is done."""
        self._steps_here += 1
        self._bar.update(self._task, advance=1, images=images)

    def epoch(self, entry: dict[str, Any]) -> None:
        """One epoch is done.

        Args:
            entry: its line of ``metrics.jsonl``.
        """
        line = epoch_line(entry, self._epochs)
        if not self._bar.disable:
            self._bar.update(self._task, description=f"{self._title}, {line}")
        elif self._shown:
            left = (self._epochs - entry["epoch"]) * self._steps
            seconds = (time.monotonic() - self._began) / max(self._steps_here, 1) * left
            print(f"{line}, {_clock(seconds)} left", file=sys.stderr, flush=True)


def epoch_line(entry: dict[str, Any], epochs: int) -> str:
    """One epoch in words.

    >>> epoch_line({"epoch": 3, "phase": "ffds", "lr": 0.1, "train": {"accuracy": 50.0},
    ...             "test": {"accuracy": 40.0, "head": 60.0, "middle": 40.0, "tail": None},
    ...             "images_per_second": 500.0}, 10)
    'epoch 3/10 ffds, lr 0.1, train 50.0, test 40.0 (head 60.0, middle 40.0, tail n/a), 500 images/s'
    """
    text = f"epoch {entry['epoch']}/{epochs} {entry['phase']}, lr {entry['lr']:.3g}, "
    text += f"train {_percent(entry['train']['accuracy'])}, "
    if (test := entry["test"]) is not None:
        others = (name for name in test if name not in ("accuracy", "per_class"))
        measures = ", ".join(f"{name.replace('_', ' ')} {_percent(test[name])}" for name in others)
        text += f"test {_percent(test['accuracy'])} ({measures}), "
    rate = entry["images_per_second"]
    return text + ("rate not measured" if rate is None else f"{rate:.0f} images/s")


class _Rate(ProgressColumn):
    """Images per second, from the speed of the steps."""

    def render(self, task: Task) -> Text:
        speed = task.speed or 0.0
        return Text(f"{speed * task.fields['images']:.0f} images/s")


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


Item = TypeVar("Item")


def counted(items: Sequence[Item], name: str) -> Iterator[Item]:
    """The items, one by one, with the progress on standard error.

    Args:
        items: what is worked through.
        name: what they are, in the plural.

    >>> list(counted([3, 1], "numbers"))
    [3, 1]
    """
    if not sys.stderr.isatty():
        yield from _told(items, name)
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(items, description=name, console=Console(stderr=True))


def _told(items: Sequence[Item], name: str) -> Iterator[Item]:
    total = len(items)
    for done, item in enumerate(items, start=1):
        yield item
        if 10 * done // total > 10 * (done - 1) // total:
            print(f"{name}: {done:,} of {total:,}", file=sys.stderr, flush=True)
