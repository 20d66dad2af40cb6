"""The schedule in epochs: when the learning rate changes and when each phase starts."""

from __future__ import annotations

import math
from itertools import pairwise

from ffds.methods.base import ClosedForm, Deferred, Method
from ffds.recipes.schema import Recipe, Schedule
from ffds.settings import epoch_at

__all__ = [
    "backbone_is_frozen",
    "described_schedule",
    "epoch_at",
    "lr_factor",
    "milestone_epochs",
    "phase_starts",
    "start_epoch",
    "warmup_epochs",
]


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


def phase_starts(recipe: Recipe) -> tuple[int, ...]:
    """The epochs, counted from 0, in which the phases start, rising.

    The first one is 0. A second loss starts where `start_epoch` says, and the epochs that the method has
    beside those of the schedule come after all of these.

    >>> from ffds.recipes.load import load_recipe
    >>> phase_starts(load_recipe("cifar100-lt-100", method="d-ffds").recipe)
    (0, 130)
    """
    epochs = recipe.schedule.epochs
    after = {epochs} if recipe.epochs > epochs else set()
    return tuple(sorted({0, start_epoch(recipe.method, epochs)} | after))


def lr_factor(recipe: Recipe, epoch: int) -> float:
    """The learning rate of an epoch (counted from 0) as a multiple of `optimizer.lr`.

    (epoch + 1) / w within the w epochs of warm-up. Then with the shape `steps` the factor of the last
    milestone passed, 1 before the first; with `cosine`, for n epochs in all,

        ½ (1 + cos(π (epoch − w) / (n − w))),

    which is 1 in the first epoch after the warm-up and would be 0 in the one after the last.

    The method's epochs after the schedule begin again with 1 and drop at the method's `extra_milestones`.
    """
    if epoch >= recipe.schedule.epochs:
        drops = zip(_extra_drops(recipe), recipe.method.extra_milestones, strict=True)
        passed = [factor for first, (_, factor) in drops if first <= epoch]
        return passed[-1] if passed else 1.0
    warmup = warmup_epochs(recipe.schedule)
    if epoch < warmup:
        return (epoch + 1) / warmup
    if recipe.schedule.shape == "cosine":
        return (1 + math.cos(math.pi * (epoch - warmup) / (recipe.schedule.epochs - warmup))) / 2
    passed = [factor for first, factor in milestone_epochs(recipe) if first <= epoch]
    return passed[-1] if passed else 1.0


def _extra_drops(recipe: Recipe) -> list[int]:
    """Where the learning rate of the epochs after the schedule drops, never in the first of them."""
    first, length = recipe.schedule.epochs, recipe.epochs - recipe.schedule.epochs
    return [first + max(1, epoch_at(fraction, length)) for fraction, _ in recipe.method.extra_milestones]


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
    starts = phase_starts(recipe)
    drops = [epoch for epoch, _ in milestone_epochs(recipe)]
    drops += [epoch for epoch in _extra_drops(recipe) if epoch < recipe.epochs]
    frozen = epochs if recipe.schedule.frozen_epochs == "all" else min(recipe.schedule.frozen_epochs, epochs)
    bounds = sorted({0, warmup, frozen, *starts, *drops, recipe.epochs})
    described = {}
    for first, after in pairwise(bounds):
        number = sum(start <= first for start in starts)
        last = recipe.method.name if len(starts) == 1 else f"phase {number}: {recipe.method.name}"
        phase = f"phase {number}" if number < len(starts) else last
        begin, end = (recipe.optimizer.lr * lr_factor(recipe, epoch) for epoch in (first, after - 1))
        change = "rising to" if begin < end else "falling along a cosine to"
        rates = f"{begin:.3g}" if begin == end else f"{begin:.3g} {change} {end:.3g}"
        trained = ", classifier only" if first < frozen or first >= epochs else ""
        if first >= epochs and isinstance(recipe.method, ClosedForm):
            described[f"{first + 1}–{after}"] = f"{phase}, classifier in closed form, no steps"
            continue
        described[f"{first + 1}–{after}"] = f"{phase}, lr {rates}{trained}"
    return described
