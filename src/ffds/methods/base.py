"""What every method has in common: its typed settings, and the losses it makes of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from pydantic import Field

from ffds.settings import Finite, Milestones, Role, Section

if TYPE_CHECKING:  # settings are read without torch
    from torch import Tensor, nn

    from ffds.losses.base import DeferredStart

__all__ = ["Beta", "ClosedForm", "Deferred", "Head", "Method", "Mix", "Sampler", "Stage", "Synthetic"]
__all__ += ["Trained", "WeightScale", "cross_entropy"]

Head = Literal["linear", "cosine"]
Sampler = (
    Literal[
        "instance-balanced",
        "class-balanced",
        "square-root",
        "progressive",
        "over-sampling",
        "under-sampling",
    ]
    | Annotated[Finite, Field(ge=0, le=1)]
)
"""How an epoch draws images, see `ffds.data.resample.draws`; a number q draws a class with p ∝ n^q."""
Trained = Literal["network", "classifier", "loss"]
WeightScale = Literal["none", "mean", "released"]
Beta = Annotated[Finite, Field(ge=0, lt=1)]
"""β of the effective number of samples, (1 - β^n) / (1 - β)."""


@dataclass(frozen=True)
class Mix:
    """How a stage mixes each training image with another one, see `ffds.data.augment.mixing`."""

    mixup: float = 0.0
    """α of mixup, whose λ comes from Beta(α, α); 0: off."""
    cutmix: float = 0.0
    """α of CutMix; with mixup, each for half the batches."""
    probability: float = 1.0
    """With which a batch is mixed."""
    partner_power: float | None = None
    """r ≥ 0: the other image is any training image, with a probability ∝ 1 / n^r, n images being of its
    class; None: it is the image before this one in the batch."""
    first: float = 0.0
    """Fraction of the run's epochs, from its beginning on, in which nothing is mixed."""
    last: float = 0.0
    """The same, at its end."""


@dataclass(frozen=True)
class Stage:
    """One loss of a method, before its epochs are known, with the name that metrics and messages show."""

    name: str
    loss: nn.Module
    with_features: bool = False
    """Whether the loss takes (logits, target, features), the features being the input of the last layer."""
    observed_for: DeferredStart | None = None
    """A later stage's loss whose initial group means come from the last epoch of this stage."""
    sampler: Sampler = "instance-balanced"
    views: tuple[Mapping[str, Any], ...] = ()
    """Further augmented views of each image beside the one that the recipe's data section describes: what is
    different there, such as ``{"augment": ("resized-crop", "hflip")}``. The loss then takes the logits (N, C)
    of the first view, the target, and with `with_features` the features (N, 1 + V, D) of all."""
    trains: Trained = "network"
    """What its steps change: the network, the classifier on a frozen backbone, or the loss's parameters."""
    new_head: bool = False
    """Whether the classifier begins anew with this stage, initialised from the seed."""
    mix: Mix | None = None
    """How its images are mixed; None: as the recipe's data section says."""
    fit: ClosedForm | None = None
    """Where it is given, the stage is one epoch without steps, whose classifier this computes."""


class Synthetic(NamedTuple):
    """How SMOTE makes the synthetic images that balance the training images."""

    neighbors: int
    """k: a synthetic image lies between an image and one of its k nearest ones of the same class."""
    seed: int


class Method(Section):
    """The settings of a method, with the values of its own released code as defaults, and its stages.

    A subclass fixes `name`, adds its own settings as fields and implements `stages`. One with two stages
    within the schedule has a setting `start` as well, see `Deferred`; one with a stage after the complete
    schedule says how long it is in `extra_epochs`.
    """

    head: ClassVar[Head] = "linear"
    """The classifier head that the method is defined on; `model.head: auto` takes it."""
    prior_bias: ClassVar[bool] = False
    """Whether the head's bias begins at −log(C − 1), the log-odds of 1/C, and has no weight decay."""
    linear_only: ClassVar[bool] = False
    """Whether it needs the weights and biases of a linear head."""
    source: ClassVar[str] = ""
    """Who published it, where and when, and which equation it is."""
    needs: ClassVar[str] = ""
    """What it needs beside training images and labels, such as "validation images"; empty for nothing."""
    published: ClassVar[str] = ""
    """Published accuracy on CIFAR-100-LT, IF 100, ResNet-32, in percent, and where; empty for none."""
    mixes: ClassVar[bool] = False
    """Whether its stages mix images by themselves, so that the recipe's data section may not."""
    views: ClassVar[bool] = False
    """Whether its stages ask for several views of each image, from which the backbone learns."""

    name: Annotated[str, Role.COLUMN]
    """The method."""
    milestones: Milestones | None = None
    """The method's own learning-rate drops; null takes those of the schedule."""
    sampler: Annotated[Sampler, Role.ADDED] = "instance-balanced"
    """How the last phase draws images; a number q: first a class with p ∝ n^q, then one of its images."""

    @property
    def synthetic(self) -> Synthetic | None:
        """The synthetic images that join the training images; None for none."""
        return None

    @abstractmethod
    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        """The losses of this method in the order of training.

        One, or two where it has a setting `start`; then one more where it has extra epochs.
        """

    def extra_epochs(self, epochs: int) -> int:
        """Epochs that the method trains after the `epochs` of the complete schedule."""
        return 0

    @property
    def extra_milestones(self) -> Milestones:
        """Learning-rate drops of these, as fractions of them; they begin with the base learning rate."""
        return ()

    @property
    def begins_as(self) -> Method | None:
        """The method whose complete run this one goes on from; None where it trains from the start."""
        return None

    @property
    def phases(self) -> int:
        """The number of its stages, told without their losses."""
        return 1 + isinstance(self, Deferred) + (self.extra_epochs(1) > 0)


@runtime_checkable
class Deferred(Protocol):
    """A method with two phases: the second one begins after the fraction `start` of the epochs."""

    @property
    def start(self) -> float: ...


@runtime_checkable
class ClosedForm(Protocol):
    """A method whose classifier follows in closed form from the one that the phase before left."""

    @property
    def chooses(self) -> bool:
        """Whether validation images choose one of several candidates."""

    def candidates(
        self, head: Mapping[str, Tensor], class_counts: Sequence[int], class_means: Callable[[], Tensor]
    ) -> Mapping[Any, Mapping[str, Tensor]]:
        """Classifiers by what tells them apart, in order of preference.

        `head` are the tensors of the one before, `class_means` computes the mean features (C, D).
        """


def cross_entropy() -> Stage:
    """The stage of plain cross-entropy, with which many methods begin."""
    from torch import nn

    return Stage("cross-entropy", nn.CrossEntropyLoss())
