"""Decoupling: a classifier of its own on the backbone that a complete training with cross-entropy left."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from ffds.errors import InputError
from ffds.methods.base import Method, Sampler, Stage, cross_entropy
from ffds.methods.reweighting import CrossEntropy
from ffds.settings import Finite, Milestones, NonNegative, Role, epoch_at

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CRT", "LWS", "NearestClassMean", "PostHocLogitAdjustment", "TauNormalized"]

TAUS = tuple(step / 10 for step in range(21))
"""Strengths of which validation images choose one: 0 to 2, as in the released code of Kang et al."""


class _Decoupled(Method):
    """Cross-entropy for the complete schedule, in common with `ce`, then its classifier alone."""

    @property
    def begins_as(self) -> Method:
        return CrossEntropy(milestones=self.milestones)


class CRT(_Decoupled):
    """Classifier re-training: a new one on the frozen backbone, all classes alike (Kang et al. 2020)."""

    source: ClassVar[str] = "Kang et al., ICLR 2020, section 4.1"
    published: ClassVar[str] = "40.26, Zhang et al. 2021"

    name: Literal["crt"] = "crt"
    sampler: Annotated[Sampler, Role.ADDED] = "class-balanced"
    """How the phase of the classifier draws images."""
    classifier_epochs: Annotated[Finite, Field(gt=0, le=10)] = 0.15
    """Epochs of the classifier as a fraction of those of the schedule, after which they come."""
    classifier_milestones: Milestones = ((1 / 3, 0.1), (2 / 3, 0.01))
    """Learning-rate drops of these epochs, as fractions of them."""

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        from torch import nn

        retrained = Stage("new classifier", nn.CrossEntropyLoss(), trains="classifier", new_head=True)
        return cross_entropy(), retrained

    def extra_epochs(self, epochs: int) -> int:
        return max(1, epoch_at(self.classifier_epochs, epochs))

    @property
    def extra_milestones(self) -> Milestones:
        return self.classifier_milestones


class LWS(CRT):
    """Learnable weight scaling: one learned factor for the logit of each class (Kang et al. 2020).

    Backbone and classifier stay as cross-entropy left them. z_c = s_c · (w_c · h + b_c), with s_c = 1 at the
    beginning.
    """

    linear_only: ClassVar[bool] = True
    source: ClassVar[str] = "Kang et al., ICLR 2020, equation 6"
    published: ClassVar[str] = "40.16, Zhang et al. 2021"

    name: Literal["lws"] = "lws"  # type: ignore[assignment]

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        from ffds.losses.cross_entropy import ScaledCrossEntropy

        scaled = Stage("class scales", ScaledCrossEntropy(len(class_counts)), trains="loss")
        return cross_entropy(), scaled


class _ClosedForm(_Decoupled):
    """One more epoch without steps, in which the classifier follows in closed form."""

    def disagreements(self) -> Iterator[str]:
        if self.sampler != "instance-balanced":
            yield f"{self.name} draws no images after cross-entropy: leave sampler as it is"

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        from torch import nn

        return cross_entropy(), Stage(self.name, nn.CrossEntropyLoss(), trains="loss", fit=self)

    def extra_epochs(self, epochs: int) -> int:
        return 1

    @property
    def chooses(self) -> bool:
        """Whether validation images choose one of several candidates."""
        return False

    @abstractmethod
    def candidates(
        self, head: Mapping[str, Tensor], class_counts: Sequence[int], class_means: Callable[[], Tensor]
    ) -> Mapping[Any, Mapping[str, Tensor]]:
        """As in `ffds.methods.base.ClosedForm`."""


class TauNormalized(_ClosedForm):
    """Class weights divided by their norm to the power of τ, without bias (Kang et al. 2020).

    w_c / ‖w_c‖^τ: τ = 0 leaves the weights, τ = 1 makes all norms 1. As in the source there is no bias.
    """

    linear_only: ClassVar[bool] = True
    source: ClassVar[str] = "Kang et al., ICLR 2020, equation 5"
    needs: ClassVar[str] = "validation images, unless τ is given"
    published: ClassVar[str] = "40.96, Zhang et al. 2021"

    name: Literal["tau-norm"] = "tau-norm"
    tau: NonNegative | None = None
    """τ; null: the one of 0, 0.1, …, 2 with the best balanced accuracy on the validation images."""

    @property
    def chooses(self) -> bool:
        return self.tau is None

    def candidates(
        self, head: Mapping[str, Tensor], class_counts: Sequence[int], class_means: Callable[[], Tensor]
    ) -> dict[float, dict[str, Tensor]]:
        """Classifiers by τ."""
        weight, no_bias = head["weight"], head["bias"].new_zeros(len(head["bias"]))
        norms = weight.norm(dim=1, keepdim=True)
        taus = TAUS if self.tau is None else (self.tau,)
        return {tau: {"weight": weight / norms**tau, "bias": no_bias} for tau in taus}


class NearestClassMean(_ClosedForm):
    """The class whose mean feature has the smallest angle with that of the image (Kang et al. 2020).

    The means μ_c are over the training images, in evaluation mode. As a linear classifier w_c = μ_c / ‖μ_c‖
    without bias. For the decision this is the cosine similarity and also the Euclidean distance to means of
    unit length, the two that the source names.
    """

    source: ClassVar[str] = "Kang et al., ICLR 2020, section 4.2"

    name: Literal["ncm"] = "ncm"

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        if empty := [label for label, count in enumerate(class_counts) if count == 0]:
            raise _no_images("ncm has no mean", empty)
        return super().stages(class_counts)

    def candidates(
        self, head: Mapping[str, Tensor], class_counts: Sequence[int], class_means: Callable[[], Tensor]
    ) -> dict[None, dict[str, Tensor]]:
        """The one classifier."""
        means = class_means()
        weight = means / means.norm(dim=1, keepdim=True).clamp_min(1e-12)
        no_bias = {"bias": head["bias"].new_zeros(len(weight))} if "bias" in head else {}
        return {None: {"weight": weight, **no_bias}}


class PostHocLogitAdjustment(_ClosedForm):
    """Logits less τ times the log of the class's share of the training images (Menon et al. 2021).

    b_c − τ log π_c, with τ = 1 what theory asks for where the classes of the test are alike.
    """

    linear_only: ClassVar[bool] = True
    source: ClassVar[str] = "Menon et al., ICLR 2021, equation 9"
    published: ClassVar[str] = "41.76, Menon et al. 2021"

    name: Literal["posthoc-la"] = "posthoc-la"
    tau: NonNegative | None = 1.0
    """τ; null: the one of 0, 0.1, …, 2 with the best balanced accuracy on the validation images."""

    @property
    def chooses(self) -> bool:
        return self.tau is None

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        if empty := [label for label, count in enumerate(class_counts) if count == 0]:
            raise _no_images("posthoc-la takes the log of a share", empty)
        return super().stages(class_counts)

    def candidates(
        self, head: Mapping[str, Tensor], class_counts: Sequence[int], class_means: Callable[[], Tensor]
    ) -> dict[float, dict[str, Tensor]]:
        """Classifiers by τ."""
        counts = head["bias"].new_tensor(class_counts)
        log_share = (counts / counts.sum()).log()
        taus = TAUS if self.tau is None else (self.tau,)
        return {tau: {"weight": head["weight"], "bias": head["bias"] - tau * log_share} for tau in taus}


def _no_images(what: str, labels: Sequence[int]) -> InputError:
    fix = "leave the class out of the data, or take another method"
    return InputError(f"{what} of a class without training images", got=f"classes {labels[:10]}", fix=fix)
