"""A method is a function from its settings and the class counts to phases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from ffds.errors import InputError
from ffds.losses import (
    FFDSLoss,
    FocalLoss,
    InfluenceBalancedLoss,
    LDAMLoss,
    class_balanced_weights,
    inverse_frequency_weights,
)
from ffds.losses.statistics import DeferredStart, EpochStatistics
from ffds.recipes.method_settings import (
    DFFDS,
    FFDS,
    IB,
    IBCB,
    LDAM,
    LDAMDRW,
    CBFocal,
    ClassBalanced,
    CrossEntropy,
    Custom,
    Focal,
    IBFocal,
    Sampler,
)
from ffds.recipes.schedule import lr_factor, start_epoch
from ffds.recipes.schema import Recipe

__all__ = ["Phase", "Stage", "phases", "stages"]


@dataclass(frozen=True)
class Stage:
    """One loss of a method, before its epochs are known.

    Attributes:
        name: what a reader calls it, e.g. ``ffds``.
        loss: (logits, target) → (), or (logits, target, features) → () where `with_features` is set.
        with_features: the loss also needs the input of the last layer.
        observed_for: a loss of a later stage that starts from what the last epoch of this one shows.
        sampler: which images its epochs draw.
    """

    name: str
    loss: nn.Module
    with_features: bool = False
    observed_for: DeferredStart | None = None
    sampler: Sampler = "instance-balanced"


@dataclass(frozen=True)
class Phase:
    """A stage with its epochs: all that the training loop knows of a method.

    Attributes:
        stage: the loss.
        start: first epoch, counted from 0.
        stop: first epoch that no longer belongs to it.
        lr_factors: learning rate over base rate, one for each epoch of the phase.
    """

    stage: Stage
    start: int
    stop: int
    lr_factors: tuple[float, ...]

    @property
    def statistics(self) -> EpochStatistics | None:
        """The loss, if it learns from each epoch for the next."""
        return self.stage.loss if isinstance(self.stage.loss, EpochStatistics) else None

    def next_from(self, epoch: int) -> DeferredStart | None:
        """The loss that starts from what this epoch shows: none but in the last one of the phase."""
        return self.stage.observed_for if epoch == self.stop - 1 else None


def phases(
    recipe: Recipe, class_counts: Sequence[int], custom_loss: nn.Module | None = None
) -> tuple[Phase, ...]:
    """The phases of a recipe's method, in order, covering every epoch once.

    Args:
        recipe: the resolved recipe.
        class_counts: training images of each class, in label order.
        custom_loss: the loss of method ``custom``, given from Python.

    Raises:
        InputError: a setting does not fit the class counts, or a custom loss is missing.
    """
    found = list(stages(recipe.method, class_counts, custom_loss))
    found[-1] = replace(found[-1], sampler=recipe.method.sampler)
    epochs = recipe.schedule.epochs
    bounds = [0, start_epoch(recipe.method, epochs), epochs] if len(found) == 2 else [0, epochs]
    return tuple(
        Phase(stage, start, stop, tuple(lr_factor(recipe, epoch) for epoch in range(start, stop)))
        for stage, start, stop in zip(found, bounds, bounds[1:], strict=False)
    )


def stages(  # noqa: PLR0911  (a table: one line a method)
    method: object, class_counts: Sequence[int], custom_loss: nn.Module | None = None
) -> tuple[Stage, ...]:
    """The one or two losses of a method, in order.

    Args:
        method: its settings, one of `ffds.recipes.method_settings`.
        class_counts: training images of each class, in label order.
        custom_loss: the loss of method ``custom``.
    """
    match method:
        case CrossEntropy():
            return (_cross_entropy(),)
        case Focal(gamma=gamma):
            return (Stage("focal", FocalLoss(gamma)),)
        case ClassBalanced():
            return (Stage("class-balanced", FocalLoss(0.0, weight=_class_balanced(method, class_counts))),)
        case CBFocal(gamma=gamma):
            weight = _class_balanced(method, class_counts)
            return (Stage("class-balanced focal", FocalLoss(gamma, weight=weight)),)
        case LDAM():
            return (_ldam(method, class_counts),)
        case LDAMDRW(beta=beta):
            weighted = _ldam(method, class_counts, beta)
            return _ldam(method, class_counts), weighted
        case IB() | IBCB() | IBFocal():
            return _cross_entropy(), _influence_balanced(method, class_counts)
        case DFFDS(observe=observe):
            loss = _ffds(method, class_counts)
            first = Stage("cross-entropy", nn.CrossEntropyLoss(), observed_for=loss if observe else None)
            return first, Stage("ffds", loss)
        case FFDS():
            return (Stage("ffds", _ffds(method, class_counts)),)
        case Custom() if custom_loss is not None:
            return (Stage("custom", custom_loss),)
    raise InputError(
        "method custom has no loss",
        got=method,
        fix="pass it from Python: ffds.train(recipe, loss=my_loss)",
    )


def _cross_entropy() -> Stage:
    return Stage("cross-entropy", nn.CrossEntropyLoss())


def _class_balanced(method: ClassBalanced | CBFocal, class_counts: Sequence[int]) -> Tensor:
    return class_balanced_weights(class_counts, method.beta, method.weight_scale)


def _ldam(method: LDAM | LDAMDRW, class_counts: Sequence[int], beta: float | None = None) -> Stage:
    weight = None if beta is None else class_balanced_weights(class_counts, beta)
    loss = LDAMLoss(class_counts, max_margin=method.max_margin, scale=method.scale, weight=weight)
    return Stage("ldam" if beta is None else "ldam, re-weighted", loss)


def _influence_balanced(method: IB | IBCB | IBFocal, class_counts: Sequence[int]) -> Stage:
    weight = (
        class_balanced_weights(class_counts, method.beta)
        if isinstance(method, IBCB)
        else inverse_frequency_weights(class_counts)
    )
    gamma = method.gamma if isinstance(method, IBFocal) else 0.0
    loss = InfluenceBalancedLoss(alpha=method.alpha, epsilon=method.epsilon, gamma=gamma, weight=weight)
    return Stage("influence-balanced", loss, with_features=True)


def _ffds(method: FFDS, class_counts: Sequence[int]) -> FFDSLoss:
    if method.num_groups > len(class_counts):
        raise InputError(
            "more groups than classes",
            where="method.num_groups",
            got=method.num_groups,
            allowed=f"1 to {len(class_counts)}, the number of classes",
            fix=f"method.num_groups={len(class_counts)}",
        )
    return FFDSLoss(
        class_counts,
        beta=method.beta,
        k=method.k,
        num_groups=method.num_groups,
        gamma_min=method.gamma_min,
        gamma_max=method.gamma_max,
        curve=method.curve,
        label_smoothing=method.label_smoothing,
        weight_scale=method.weight_scale,
        cold_start=method.cold_start,
    )
