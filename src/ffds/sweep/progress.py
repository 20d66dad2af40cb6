"""What a person sees of a sweep: the plan, one line a trial, and on a terminal where it is."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.status import Status

from ffds.recipes.schedule import start_epoch
from ffds.sweep.found import Found, Tried
from ffds.sweep.space import Space

__all__ = ["SweepProgress", "plan_text", "trial_text"]


class SweepProgress:
    """Progress of one process of a sweep on standard error; entered while a trial is trained.

    Args:
        shown: False where a caller wants silence.
    """

    def __init__(self, *, shown: bool = True) -> None:
        self._shown = shown
        self._status = Status("", console=Console(stderr=True))
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._status.update("training")
        if self._shown and sys.stderr.isatty():
            self._open.enter_context(self._status)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def say(self, message: str) -> None:
        """Print a line."""
        if self._shown:
            print(message, file=sys.stderr, flush=True)

    def plan(self, found: Found, space: Space, trials: int) -> None:
        """Say what is going to happen."""
        self.say(plan_text(found, space, trials))

    def epoch(self, number: int, epoch: int, epochs: int, score: float | None) -> None:
        """One epoch of a trial is done."""
        seen = "" if score is None else f", validation {score:.1f}"
        self._status.update(f"trial {number}: epoch {epoch}/{epochs}{seen}")

    def trial(self, one: Tried) -> None:
        """One trial is done."""
        self.say(trial_text(one))


def plan_text(found: Found, space: Space, trials: int) -> str:
    """The plan in words."""
    recipe = found.recipe
    epochs = recipe.schedule.epochs
    start = start_epoch(recipe.method, epochs)
    begun = [one for one in found.trials if one.result != "waiting"]
    to_train = max(trials - len(begun), 0)
    with_images, classes = found.classes
    share = f", the first {start} trained once for all" if start else ""
    lines = [
        f"sweep of {recipe.name} {recipe.method.name}: {to_train} of {trials} trials to train",
        f"  study:    {found.study}",
        f"  so far:   {found.tally if begun else 'nothing'}",
        f"  a trial:  {epochs} epochs{share}; then at most {to_train * (epochs - start)} to train",
        f"  score:    balanced accuracy after the last epoch on {found.images} validation images of "
        f"{with_images} of {classes} classes, held out of training",
        f"  searched: {space}",
        "  test set: not used",
    ]
    return "\n".join(lines)


def trial_text(one: Tried) -> str:
    """One trial in a line.

    >>> print(trial_text(Tried(3, "stopped early", 40.0, 140, {"k": 0.5, "num_groups": 5}, None)))
    trial 3: k=0.5 num_groups=5: 40.00 after epoch 140, stopped early
    """
    settings = " ".join(f"{key}={value}" for key, value in one.settings.items())
    score = "" if one.score is None else f"{one.score:.2f} after epoch {one.epoch}, "
    return f"trial {one.number}: {settings}: {score}{one.result}" + (f": {one.cause}" if one.cause else "")
