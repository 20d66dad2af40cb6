"""How far a run has come, and which of its epochs is the best."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Reached"]


@dataclass
class Reached:
    """The point a run has reached: epochs done, steps done in the next one, and what they took and gave.

    `seconds` include evaluation, `train_seconds` do not; epochs count from 1. What is best on
    validation is so by the measure that the recipe names; `kept_epoch` is the one whose network is kept.
    """

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    train_seconds: float = 0.0
    images: int = 0
    best_on_test: float | None = None
    best_epoch: int | None = None
    best_on_validation: float | None = None
    best_validation_epoch: int | None = None
    kept_epoch: int | None = None

    def consider(self, accuracy: float | None, epoch: int) -> None:
        """Keep the best test accuracy; one that is missing or NaN is never the best."""
        if accuracy is not None and accuracy > (-1.0 if self.best_on_test is None else self.best_on_test):
            self.best_on_test, self.best_epoch = accuracy, epoch
