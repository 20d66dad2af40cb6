"""Callbacks: what a user's own objects are told while a run trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from lightning_fabric import Fabric

from ffds.errors import FfdsError, InputError
from ffds.recipes.schema import Recipe
from ffds.run_directory import Run
from ffds.training.backend.ranks import any_rank

__all__ = ["Callback", "Callbacks", "check_callbacks"]


class Callback(Protocol):
    """What a callback may have: any of these methods; all others are its own.

    Of several ranks, only the first one calls them. An exception stops the training: the epoch is saved
    first, and the same call of `ffds.train` goes on after it. So a callback may raise in order to stop. A run
    that is killed between an epoch and its callbacks does not tell them of that epoch again; `run.metrics`
    has every epoch.

    >>> class Printer:
    ...     def on_epoch_end(self, run, entry):
    ...         print(entry["epoch"], entry["test"]["accuracy"])
    >>> ffds.train("digits", callbacks=[Printer()])     # doctest: +SKIP
    """

    def on_train_start(self, run: Run, recipe: Recipe) -> None:
        """Training begins or goes on; `run.path` is the run directory, where the recipe already lies."""

    def on_epoch_end(self, run: Run, entry: Mapping[str, Any]) -> None:
        """An epoch is done and saved; `entry` is its line of ``metrics.jsonl``."""

    def on_train_end(self, run: Run, summary: Mapping[str, Any]) -> None:
        """The last epoch is done; `summary` is ``summary.json``, which is written."""


_EVENTS = ("on_train_start", "on_epoch_end", "on_train_end")


class Callbacks:
    """The callbacks of one run, called in their order on the first rank; all ranks stop if one raises."""

    def __init__(self, fabric: Fabric, run: Run, callbacks: Sequence[object]) -> None:
        self._fabric, self._run = fabric, run
        self._callbacks = callbacks if fabric.is_global_zero else ()

    def train_start(self, recipe: Recipe) -> None:
        """Call `on_train_start`."""
        self._call("on_train_start", recipe)

    def epoch_end(self, entry: Mapping[str, Any]) -> None:
        """Call `on_epoch_end`."""
        self._call("on_epoch_end", entry)

    def train_end(self) -> None:
        """Call `on_train_end`."""
        self._call("on_train_end", self._run.summary if self._callbacks else None)

    def _call(self, event: str, argument: object) -> None:
        """Call all of them, and raise what the first failing one raised, with a note that names it."""
        failure: Exception | None = None
        for callback in self._callbacks:
            method = getattr(callback, event, None)
            if method is None:
                continue
            try:
                method(self._run, argument)
            except Exception as error:
                name = f"{type(callback).__qualname__}.{event}"
                error.add_note(f"raised by the callback {name}; what is done of {self._run.path} is saved")
                failure = failure or error
        if any_rank(self._fabric, failure is not None):
            raise failure or FfdsError("a callback on the first rank stopped the training")


def check_callbacks(callbacks: Sequence[object]) -> None:
    """Refuse an object that has none of the methods of a `Callback`."""
    for callback in callbacks:
        if not any(hasattr(callback, event) for event in _EVENTS):
            what, allowed = "a callback has no method that is called", f"any of {', '.join(_EVENTS)}"
            raise InputError(what, where="callbacks", got=repr(callback), allowed=allowed)
