"""The schedule in epochs: when the learning rate changes and when a second phase starts."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal
from itertools import pairwise

from ffds.methods.base import Deferred, Method
from ffds.recipes.schema import Recipe, Schedule

__all__ = [
    "backbone_is_frozen",
    "described_schedule",
    "epoch_at",
    "lr_factor",
    "milestone_epochs",
    "start_epoch",
    "warmup_epochs",
]


def epoch_at(fraction: float, epochs: int) -> int:
    """The epoch, counted from 0, that begins after a fraction of the run: ⌊fraction · epochs + ½⌋.

    Computed with decimal numbers, so that 0.145 of 100 epochs is 14.5 and rounds up.

    >>> epoch_at(0.65, 200), epoch_at(0.65, 30), epoch_at(0.145, 100)
    (130, 20, 15)
    """
    return int((Decimal(repr(fraction)) * epochs).to_integral_value(ROUND_HALF_UP))


def warmup_epochs(schedule: Schedule) -> int:
    """Epochs of linear warm-up: as asked for, but at most a tenth of the run.

    >>> warmup_epochs(Schedule(epochs=200)), warmup_epochs(Schedule(epochs=30))
    (5, 3)
    """
    return min(schedule.warmup, schedule.epochs // 10)


def milestone_epochs(recipe: Recipe) -> tuple[tuple[int, float], ...]:
    """Pairs (first epoch, counted from 0; learning-rate factor from then on), rising.

    The method's own milestones if it has any, else those of the schedule; none with the shape `cosine`.
    """
    if recipe.schedule.shape == "cosine":
        return ()
    own, schedule = recipe.method.milestones, recipe.schedule
    milestones = schedule.milestones if own is None else own
    return tuple((epoch_at(fraction, schedule.epochs), factor) for fraction, factor in milestones)


def start_epoch(method: Method, epochs: int) -> int:
    """The epoch, counted from 0, in which the method's own loss starts: 0 for a one-phase method.

    Each of two phases has at least one epoch; `Recipe` checks that there are two.
    """
    if not isinstance(method, Deferred):
        return 0
    return min(max(epoch_at(method.start, epochs), 1), epochs - 1)


def lr_factor(recipe: Recipe, epoch: int) -> float:
    """The learning rate of an epoch (counted from 0) as a multiple of `optimizer.lr`.

    (epoch + 1) / w within the w epochs of warm-up. Then with the shape `steps` the factor of the last
    milestone passed, 1 before the first; with `cosine`, for n epochs in all,

        ½ (1 + cos(π (epoch − w) / (n − w))),

    which is 1 in the first epoch after the warm-up and would be 0 in the one after the last.
    """
    warmup = warmup_epochs(recipe.schedule)
    if epoch < warmup:
        return (epoch + 1) / warmup
    if recipe.schedule.shape == "cosine":
        return (1 + math.cos(math.pi * (epoch - warmup) / (recipe.schedule.epochs - warmup))) / 2
    passed = [factor for first, factor in milestone_epochs(recipe) if first <= epoch]
    return passed[-1] if passed else 1.0


def backbone_is_frozen(schedule: Schedule, epoch: int) -> bool:
    """Whether only the classifier is trained in an epoch, counted from 0.

    >>> [backbone_is_frozen(Schedule(epochs=30, frozen_epochs=2), epoch) for epoch in (1, 2)]
    [True, False]
    """
    return schedule.frozen_epochs == "all" or epoch < schedule.frozen_epochs


def described_schedule(recipe: Recipe) -> dict[str, str]:
    """Ranges of epochs, counted from 1, with their phase and learning rate.

    >>> from ffds.recipes.load import load_recipe
    >>> described_schedule(load_recipe("cifar10-lt-100", ["schedule.epochs=60"]).recipe)["40–48"]
    'phase 2: d-ffds, lr 0.1'
    """
    epochs, warmup = recipe.schedule.epochs, warmup_epochs(recipe.schedule)
    start = start_epoch(recipe.method, epochs)
    drops = [epoch for epoch, _ in milestone_epochs(recipe)]
    frozen = epochs if recipe.schedule.frozen_epochs == "all" else min(recipe.schedule.frozen_epochs, epochs)
    bounds = sorted({0, warmup, start, frozen, *drops, epochs})
    described = {}
    for first, after in pairwise(bounds):
        second = f"phase 2: {recipe.method.name}" if start else recipe.method.name
        phase = "phase 1" if first < start else second
        begin, end = (recipe.optimizer.lr * lr_factor(recipe, epoch) for epoch in (first, after - 1))
        change = "rising to" if begin < end else "falling along a cosine to"
        rates = f"{begin:.3g}" if begin == end else f"{begin:.3g} {change} {end:.3g}"
        trained = ", classifier only" if first < frozen else ""
        described[f"{first + 1}–{after}"] = f"{phase}, lr {rates}{trained}"
    return described
