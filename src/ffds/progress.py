"""Progress of long work on standard error: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, Self, TypeVar

from rich import progress as rich
from rich.console import Console
from rich.text import Text

from ffds.errors import printable, quiet, tell

__all__ = ["Progress", "epoch_line", "live_line", "track"]

Item = TypeVar("Item")


class Progress:
    """Progress of a task of `total` units, such as ``images``; displayed while entered, if `shown`."""

    def __init__(self, title: str, total: int, unit: str, *, shown: bool = True) -> None:
        self._title, self._shown = printable(title), shown and not quiet()
        self._console = Console(stderr=True)
        done = (
            rich.TextColumn("{task.description}", markup=False),
            rich.BarColumn(bar_width=None),  # as wide as the results leave room
            rich.TaskProgressColumn(),
        )
        columns = (*done, _Speed(unit), rich.TimeRemainingColumn())
        hidden = not (self._shown and sys.stderr.isatty())
        self._bar = rich.Progress(*columns, console=self._console, disable=hidden)
        self._task = self._bar.add_task(self._title, total=total)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def say(self, message: str) -> None:
        """Print a line."""
        if not self._bar.disable:
            self._console.print(printable(message), markup=False, highlight=False)
        elif self._shown:
            tell(message)

    def start_at(self, done: int) -> None:
        """Begin with so much of the work done in an earlier session."""
        self._bar.reset(self._task, completed=done)

    def advance(self, count: int = 1) -> None:
        """So much more is done."""
        self._bar.advance(self._task, count)

    def report(self, text: str, short: str | None = None) -> None:
        """Show how far the work is and its results: a line with the time left, or in short beside the bar."""
        seconds = self._bar.tasks[0].time_remaining
        left = "" if seconds is None else f", {timedelta(seconds=round(seconds))} left"
        if self._bar.disable:
            self.say(text + left)
        self._bar.update(self._task, description=printable(short or text))


class _Speed(rich.ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: rich.Task) -> Text:
        return Text(f"{task.speed or 0.0:,.0f} {self._unit}/s")


def track(items: Sequence[Item], name: str) -> Iterator[Item]:
    """The items, one by one, with their progress; `name` says what they are, in the plural.

    >>> list(track([3, 1], "numbers"))
    [3, 1]
    """
    total = len(items)
    with Progress(name, total, name.partition(" ")[0]) as progress:
        for done, item in enumerate(items, start=1):
            yield item
            progress.advance()
            if not sys.stderr.isatty() and 10 * done // total > 10 * (done - 1) // total:
                progress.say(f"{name}: {done:,} of {total:,}")


def epoch_line(entry: dict[str, Any], epochs: int) -> str:
    """The metrics of one epoch in words.

    >>> epoch_line({"epoch": 3, "phase": "ffds", "lr": 0.1, "train": {"accuracy": 50.0},
    ...             "test": {"accuracy": 40.0, "head": 60.0, "middle": 40.0, "tail": None},
    ...             "validation": None, "images_per_second": 500.0}, 10)
    'epoch 3/10 ffds, lr 0.1, train 50.0, test 40.0 (head 60.0, middle 40.0, tail n/a), 500 images/s'
    """
    text = f"epoch {entry['epoch']}/{epochs} {entry['phase']}, lr {entry['lr']:.3g}, "
    text += f"train {_percent(entry['train']['accuracy'])}, "
    for images in ("validation", "test"):
        if (scores := entry[images]) is not None:
            shown = [name for name in entry["test"] if name not in ("accuracy", "per_class")]
            measures = ", ".join(f"{name.replace('_', ' ')} {_percent(scores[name])}" for name in shown)
            text += f"{images} {_percent(scores['accuracy'])} ({measures}), "
    rate = entry["images_per_second"]
    return text + ("rate not measured" if rate is None else f"{rate:.0f} images/s")


def live_line(entry: dict[str, Any], epochs: int) -> str:
    """The accuracies of one epoch in at most 40 characters, so that a bar fits beside them in 80.

    >>> entry = {"epoch": 130, "validation": {"accuracy": 45.0}, "test": {"accuracy": 40.0, "tail": 12.5}}
    >>> live_line(entry, 200)
    '130/200 val 45.0 test 40.0 tail 12.5'
    """
    text = f"{entry['epoch']}/{epochs}"
    if (validation := entry["validation"]) is not None:
        text += f" val {_percent(validation['accuracy'])}"
    if (test := entry["test"]) is not None:
        text += f" test {_percent(test['accuracy'])} tail {_percent(test['tail'])}"
    return text


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1f}"
