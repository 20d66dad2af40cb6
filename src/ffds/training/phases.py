"""The phases of a run: the losses of its method, each with its epochs and their learning rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import nn

from ffds.data.dataset import Dataset
from ffds.errors import InputError
from ffds.losses.base import DeferredStart, EpochStatistics, RenewedByAccuracy
from ffds.methods.base import Mix, Sampler, Stage, Trained
from ffds.recipes.schedule import backbone_is_frozen, epoch_at, lr_factor, phase_starts
from ffds.recipes.schema import Recipe

__all__ = ["Phase", "phases", "refuse_without_validation"]


@dataclass(frozen=True)
class Phase:
    """A stage with its epochs, from `start` to before `stop`: all that the training loop knows of a method.

    `lr_factors` holds the learning rate over the base rate for each epoch of the phase, `trained` what the
    steps of each change, `mixes` how its images are mixed, None where the recipe's data section decides that.
    """

    stage: Stage
    start: int
    stop: int
    lr_factors: tuple[float, ...]
    trained: tuple[Trained, ...]
    mixes: tuple[Mix | None, ...]

    @property
    def statistics(self) -> EpochStatistics | None:
        """The loss, if it gathers statistics in each epoch for the next."""
        return self.stage.loss if isinstance(self.stage.loss, EpochStatistics) else None

    def drawing(self, epoch: int) -> tuple[Sampler, float]:
        """How an epoch draws images, and what fraction of the epochs of the phase are done before it."""
        return self.stage.sampler, (epoch - self.start) / (self.stop - self.start)

    @property
    def renewed(self) -> RenewedByAccuracy | None:
        """The loss, if it is renewed after each epoch by the accuracy of the classes on validation images."""
        return self.stage.loss if isinstance(self.stage.loss, RenewedByAccuracy) else None

    def renew(self, per_class: Sequence[float | None]) -> None:
        """Renew such a loss by the accuracy of each class in percent, None where it has no image."""
        if self.renewed is not None:
            accuracies = [math.nan if one is None else one / 100 for one in per_class]
            self.renewed.renew(torch.tensor(accuracies, dtype=torch.float64))

    def next_from(self, epoch: int) -> DeferredStart | None:
        """The later loss that starts from what this epoch shows: None but in the last epoch of the phase."""
        return self.stage.observed_for if epoch == self.stop - 1 else None


def phases(
    recipe: Recipe, class_counts: Sequence[int], custom_loss: nn.Module | None = None
) -> tuple[Phase, ...]:
    """The phases of a recipe's method, in order, covering every epoch once.

    Raises:
        InputError: a setting does not fit the class counts, or the loss of method ``custom`` is missing.
    """
    stages = recipe.method.stages(class_counts) if custom_loss is None else (Stage("custom", custom_loss),)
    stages = (*stages[:-1], replace(stages[-1], sampler=recipe.method.sampler))
    bounds = pairwise([*phase_starts(recipe), recipe.epochs])
    return tuple(_phase(recipe, stage, range(*bound)) for stage, bound in zip(stages, bounds, strict=True))


def _phase(recipe: Recipe, stage: Stage, epochs: range) -> Phase:
    factors = tuple(lr_factor(recipe, epoch) for epoch in epochs)
    frozen = (stage.trains == "network" and backbone_is_frozen(recipe.schedule, epoch) for epoch in epochs)
    trained = tuple("classifier" if one else stage.trains for one in frozen)
    mixes = tuple(stage.mix if epoch in _mixed_epochs(recipe, stage.mix) else None for epoch in epochs)
    return Phase(stage, epochs.start, epochs.stop, factors, trained, mixes)


def _mixed_epochs(recipe: Recipe, mix: Mix | None) -> range:
    """The epochs of a run in which a stage that mixes so does it."""
    if mix is None:
        return range(0)
    epochs = recipe.schedule.epochs
    return range(epoch_at(mix.first, epochs), epochs - epoch_at(mix.last, epochs))


def refuse_without_validation(phases: Sequence[Phase], dataset: Dataset) -> None:
    """Refuse a phase whose loss or classifier follows validation images where there are none."""
    if dataset.validation is not None:
        return
    fix = "data.validation=0.1 holds out a tenth of each class"
    for phase in phases:
        if phase.renewed is not None:
            what = f"the loss {phase.stage.name} is renewed by the accuracy on validation images"
            raise InputError(what, got="none", fix=fix)
        if phase.stage.fit is not None and phase.stage.fit.chooses:
            what = f"τ of {phase.stage.name} is chosen on validation images; the test set chooses nothing"
            raise InputError(what, where="method.tau", got="none", fix=f"{fix}; or method.tau=1 gives it")
