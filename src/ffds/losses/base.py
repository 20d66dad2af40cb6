"""What the losses share: precision, labels or probabilities as target, reduction, statistics of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol, runtime_checkable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ffds.errors import InputError

__all__ = ["BuiltOnFeatures", "ClassProbabilities", "ClassificationLoss", "DeferredStart"]
__all__ += ["EpochStatistics", "RenewedByAccuracy", "ScalesLogits", "WeightedMean"]

Reduction = Literal["mean", "sum", "none"]


def checked(logits: Tensor, target: Tensor, num_classes: int | None = None) -> tuple[Tensor, Tensor]:
    """Logits in float32 or better, and labels (N,) as int64 or probabilities (N, C) in the logits' type."""
    integer = not (target.is_floating_point() or target.is_complex() or target.dtype == torch.bool)
    expected = logits.shape[:1] if integer else logits.shape
    if logits.ndim != 2 or target.shape != expected or not (integer or target.is_floating_point()):
        got = f"logits {tuple(logits.shape)}, target {tuple(target.shape)} {target.dtype}"
        allowed = "logits (N, C), target (N,) of integers or (N, C) of probabilities"
        raise InputError("logits and target do not fit together", got=got, allowed=allowed)
    if num_classes not in (None, logits.shape[1]):
        got = f"logits {tuple(logits.shape)}, loss {num_classes}"
        fix = "give the loss the counts or weights of all classes of the model"
        raise InputError("logits have another number of classes than the loss", got=got, fix=fix)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits, target.long() if integer else target.to(logits.dtype)


def labels_to_keep(target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Labels (N,) with 0 in place of those to ignore, and which samples are kept, (N,) bool."""
    kept = target != ignore_index
    return target.where(kept, 0), kept


class FullPrecision(nn.Module):
    """A module whose buffers are never cast below float32, also where the model that holds it is."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def kept(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype in (torch.float16, torch.bfloat16) else moved

        return super()._apply(kept, recurse)  # type: ignore[no-untyped-call]


class ClassificationLoss(FullPrecision):
    """A loss of logits (N, C) and labels (N,), or probabilities q (N, C) of the labels.

    For probabilities the loss of a sample is the expectation Σ_c q_c · loss(z, c), so that mixup, CutMix and
    distillation work. That the q of a sample sum to 1 is not checked.

    Args:
        ignore_index: label of samples to leave out, as in torch.
        reduction: ``"mean"`` over the samples not left out (NaN if there is none), ``"sum"`` or ``"none"``.
    """

    def __init__(self, ignore_index: int, reduction: Reduction) -> None:
        super().__init__()
        if reduction not in ("mean", "sum", "none"):
            raise InputError("unknown reduction", got=reduction, allowed="mean, sum, none")
        self.ignore_index, self.reduction = ignore_index, reduction

    def at_label(self, per_class: Tensor, target: Tensor) -> Tensor:
        """Values (C,) or (N, C) at the labels, (N,), 0 where ignored; or, for probabilities, of all classes.

        A label that is no class is an InputError on the CPU; elsewhere and compiled, torch's assertion fails.
        """
        if target.ndim == 2:
            if per_class.ndim == 1:
                return per_class
            # A class that is masked out and never the label would add 0 · ∞ to the expectation.
            return per_class.masked_fill((target == 0) & (per_class < -1e30), 0)
        label, kept = labels_to_keep(target, self.ignore_index)
        try:
            rows = per_class.expand(len(label), -1)
            return rows.gather(1, label[:, None]).squeeze(1).where(kept, 0)
        except (IndexError, RuntimeError) as error:
            classes = per_class.shape[-1]
            if bad := [y for y in label.tolist() if not 0 <= y < classes]:
                allowed = f"0 to {classes - 1}, or {self.ignore_index} to leave the sample out"
                raise InputError("a label is no class", got=bad[:10], allowed=allowed) from error
            raise

    def sum_at_label(self, per_class: Tensor, target: Tensor) -> Tensor:
        """Sum over the batch of values (C,) at the labels, (), by which a weighted mean divides."""
        at_label = self.at_label(per_class, target)
        return at_label.sum() if target.ndim == 1 else (target * at_label).sum()

    def weighted(self, values: Tensor, weight: Tensor | None, target: Tensor) -> Tensor:
        """Values times the weight (C,) of their class, if there are weights."""
        return values if weight is None else self.at_label(weight.to(values.dtype), target) * values

    def reduced(self, values: Tensor, target: Tensor, divisor: Tensor | None = None) -> Tensor:
        """Values, in the shape that `at_label` gives, to () or (N,); the mean may have another divisor."""
        kept = target != self.ignore_index
        values = values.where(kept, 0) if target.ndim == 1 else (target * values).sum(dim=1)
        if self.reduction == "none":
            return values
        if self.reduction == "sum":
            return values.sum()
        samples = kept.sum() if target.ndim == 1 else len(target)
        return values.sum() / (samples if divisor is None else divisor)

    def extra_repr(self) -> str:
        """The settings, for repr."""
        ignored = "" if self.ignore_index == -100 else f", ignore_index={self.ignore_index}"
        return f"reduction={self.reduction!r}{ignored}"


class ClassProbabilities(FullPrecision):
    """Sum of p_y and number of samples of each class (C,) in an epoch, from which means of groups follow.

    A sample with probabilities counts for its most probable label; one that is ignored or has p_y = NaN, not.
    """

    sums: Tensor
    counts: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("sums", torch.zeros(num_classes, dtype=torch.float32))
        self.register_buffer("counts", torch.zeros(num_classes, dtype=torch.int64))

    @torch.no_grad()
    def observe(self, logits: Tensor, target: Tensor, ignore_index: int = -100) -> None:
        """Add logits (N, C) and their target (N,) or (N, C)."""
        logits, target = checked(logits, target, len(self.counts))
        self._add(F.log_softmax(logits, dim=1), target, ignore_index)

    def observe_step(self, log_p: Tensor, target: Tensor, ignore_index: int) -> None:
        """Add log p (N, C) of a forward pass that records gradients, outside of `torch.func`, once a step."""
        if not torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
            return
        if log_p.requires_grad and torch._C._current_autograd_node() is not None:
            # Activation checkpointing repeats the forward pass inside the backward pass. Only a repetition
            # whose first pass recorded no gradients, and so added nothing, is differentiated itself.
            values = log_p.detach()
            log_p.register_hook(lambda _: self._add(values, target, ignore_index))  # type: ignore[no-untyped-call]
        else:
            self._add(log_p, target, ignore_index)

    @torch.no_grad()
    def _add(self, log_p: Tensor, target: Tensor, ignore_index: int) -> None:
        if target.ndim == 2:
            largest, label = target.max(dim=1)
            target = label.where(largest > 0, ignore_index)
        label, kept = labels_to_keep(target, ignore_index)
        p = log_p.gather(1, label[:, None]).squeeze(1).exp().to(self.sums.dtype)
        kept = kept & ~p.isnan()
        # Batch by batch: sample by sample, float32 loses digits over the million samples of an epoch.
        self.sums.add_(torch.zeros_like(self.sums).index_add_(0, label, p.where(kept, 0)))
        # For integers, the compiler would make a sort of index_add on a GPU.
        self.counts.scatter_add_(0, label, kept.long())

    @torch.no_grad()
    def sum_over_ranks(self) -> None:
        """Make the sums those of all ranks; every rank must call it."""
        if among_ranks():
            dist.all_reduce(self.sums)
            dist.all_reduce(self.counts)

    @torch.no_grad()
    def clear(self) -> None:
        """Forget everything gathered."""
        self.sums.zero_()
        self.counts.zero_()

    def named_modules(self, memo: Any = None, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:
        """As in torch, but hidden from DistributedDataParallel, which would copy the first rank's sums."""
        if memo is None or not among_ranks():
            yield from super().named_modules(memo, *args, **kwargs)


def among_ranks() -> bool:
    """Whether this process is one of a group that trains together."""
    return dist.is_available() and dist.is_initialized()


@runtime_checkable
class WeightedMean(Protocol):
    """A loss whose mean over a batch does not divide by the number of samples; your own may say so too."""

    def divisor(self, target: Tensor) -> Tensor:
        """What the mean over target (N,) divides by, (): so much counts the mean of one of several ranks."""


@runtime_checkable
class EpochStatistics(Protocol):
    """A loss that gathers statistics over an epoch, as `FFDSLoss` does; your own may do the same."""

    def observe(self, logits: Tensor, target: Tensor) -> None:
        """Gather from logits (N, C) and target (N,), without a loss."""

    def end_epoch(self) -> None:
        """Turn what was gathered, over all ranks, into the reference of the next epoch."""


@runtime_checkable
class RenewedByAccuracy(Protocol):
    """A loss that follows how well each class is recognised, as `DifficultyBalancedLoss` does."""

    def renew(self, class_accuracy: Tensor) -> None:
        """Take the accuracy (C,) of each class on validation images, in [0, 1], NaN where it has none.

        It is called after every epoch, on every rank with the accuracy over all of them.
        """


@runtime_checkable
class BuiltOnFeatures(Protocol):
    """A loss with parameters of its own that depend on the width of the network's features."""

    def build(self, num_features: int) -> None:
        """Make them for features (N, D), before the optimizer is made; draws from torch's generator."""


@runtime_checkable
class ScalesLogits(Protocol):
    """A loss of logits times factors that it learns, all 1 before its phase, as `ScaledCrossEntropy` does."""

    def folded(self, rows: Tensor) -> Tensor:
        """Weight (C, D) or bias (C,) of the classifier whose logits are the scaled ones."""


class DeferredStart(Protocol):
    """A loss that starts from what was observed in the last epoch of another loss."""

    def start_from(self, observed: ClassProbabilities) -> None:
        """Take the probabilities of that epoch, over all ranks, as the reference."""
