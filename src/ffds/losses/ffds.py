"""FFDS: dynamic probability smoothing and frequency weighted focusing."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Literal, SupportsIndex

import torch
from torch import Tensor

from ffds.errors import InputError
from ffds.losses import functional
from ffds.losses.precision import FullPrecision
from ffds.losses.reduction import Reduction, reduced, validated_reduction
from ffds.losses.statistics import ClassProbabilities
from ffds.losses.weights import WeightScale, class_balanced_weights, validated_counts

__all__ = ["ColdStart", "Curve", "FFDSLoss", "focusing_parameters", "frequency_groups"]

Curve = Literal["linear", "convex", "concave"]
ColdStart = Literal["cross_entropy", "unsmoothed"]


class FFDSLoss(FullPrecision):
    """−w_y · (1 − p̂_y)^γ_y · Σ_j Q(j) log p_j, the loss of the FFDS paper (eq. 1).

    In training mode each call also gathers p_y for the mean of its class group; `end_epoch` makes those
    means the reference p̄ of the next epoch. In evaluation mode nothing is gathered. Keep the loss outside a
    DistributedDataParallel module, which would replace each rank's statistics by those of the first.

    Args:
        class_counts: training images of each class, in any order, each ≥ 1.
        beta: β of the class-balanced weight w, 0 ≤ β < 1.
        k: strength of DynaSmooth, 0 ≤ k ≤ 1; 0 switches it off.
        num_groups: M, 1 ≤ M ≤ C.
        gamma_min: focusing parameter of the rarest class, ≥ 0.
        gamma_max: focusing parameter of the most frequent class, ≥ gamma_min.
        curve: how γ grows between them with the count: ``"linear"``, ``"convex"`` or ``"concave"``.
        label_smoothing: ε, 0 ≤ ε < 1, spread over the C − 1 other classes.
        weight_scale: ``"mean"`` (weights sum to C), ``"none"`` (the paper's formula) or ``"released"``
            (weights sum to 1/C, as in the authors' code): three effective learning rates.
        cold_start: what to do before any group mean exists: ``"cross_entropy"`` (as the authors' code) or
            ``"unsmoothed"`` (p̂ = p).
        reduction: ``"mean"`` (over the batch size), ``"sum"`` or ``"none"``.

    Attributes:
        group_means: p̄ of each group (M,), NaN until the first epoch that has a sample of the group ends;
            set by `end_epoch`, `start_from` and `load_state_dict`, or in place.
        class_group: group of each class (C,), 0 for the most frequent classes.
        gamma: focusing parameter of each class (C,).
        class_weight: w of each class (C,).

    Raises:
        InputError: a class count below 1, a setting out of range, or an unknown name.

    Source: Nah et al., "Rethinking long-tailed visual recognition with dynamic probability smoothing and
    frequency weighted focusing", ICIP 2023, eq. 1 to 6.

    >>> loss = FFDSLoss([100, 50, 20, 5], num_groups=2)
    >>> logits, target = torch.zeros(8, 4), torch.tensor([0, 1, 2, 3, 0, 1, 0, 0])
    >>> value = loss(logits, target)     # one training step of the first epoch
    >>> loss.end_epoch()
    >>> loss.group_means
    tensor([0.2500, 0.2500])
    """

    group_means: Tensor
    class_group: Tensor
    gamma: Tensor
    class_weight: Tensor
    _terms: Tensor

    def __init__(
        self,
        class_counts: Sequence[int] | Tensor,
        *,
        beta: float = 0.9999,
        k: float = 0.9,
        num_groups: int = 10,
        gamma_min: float = 0.0,
        gamma_max: float = 3.0,
        curve: Curve = "concave",
        label_smoothing: float = 0.1,
        weight_scale: WeightScale = "mean",
        cold_start: ColdStart = "cross_entropy",
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        if not 0 <= k <= 1:
            raise InputError("k is out of range", got=k, allowed="0 <= k <= 1")
        if not 0 <= label_smoothing < 1:
            raise InputError("label_smoothing is out of range", got=label_smoothing, allowed="0 <= ε < 1")
        if cold_start not in ("cross_entropy", "unsmoothed"):
            raise InputError("unknown cold_start", got=cold_start, allowed="cross_entropy, unsmoothed")
        self.k, self.label_smoothing, self.cold_start = k, label_smoothing, cold_start
        self.reduction = validated_reduction(reduction)
        self.register_buffer("class_weight", class_balanced_weights(class_counts, beta, weight_scale))
        self.register_buffer("gamma", focusing_parameters(class_counts, gamma_min, gamma_max, curve))
        self.register_buffer("class_group", frequency_groups(class_counts, num_groups))
        self.register_buffer("group_means", torch.full((int(num_groups),), torch.nan))
        self.gathered = ClassProbabilities(len(self.gamma))
        self.register_buffer("_terms", self.gamma.new_zeros(5, len(self.gamma)), persistent=False)
        self._looked_up_at: list[int] = []
        self._look_up()
        self.register_load_state_dict_post_hook(_look_up)  # type: ignore[no-untyped-call]

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits (N, C), target (N,) → () or (N,); gathers group statistics in training mode."""
        values, probability = functional.ffds_of_terms(
            logits, target, self._current_terms(), self.k, self.label_smoothing
        )
        if self.training:
            self.gathered.gather(target, probability)
        return reduced(values, self.reduction)

    def observe(self, logits: Tensor, target: Tensor) -> None:
        """Only gather: for the last epoch of another loss before a deferred start.

        Args:
            logits: (N, C).
            target: (N,).
        """
        self.gathered.observe(logits, target)

    def end_epoch(self) -> None:
        """Make this epoch's group means the reference; summed over ranks first.

        A group without a sample keeps its mean. Every rank must call it.
        """
        self.gathered.sum_over_ranks()
        self.start_from(self.gathered)
        self.gathered.clear()

    @torch.no_grad()
    def start_from(self, observed: ClassProbabilities) -> None:
        """Make the group means of an epoch observed elsewhere the reference.

        Args:
            observed: p_y of that epoch, class by class, over all ranks.
        """
        sums = torch.zeros_like(self.group_means).index_add_(0, self.class_group, observed.sums)
        counts = torch.zeros_like(sums, dtype=torch.int64).index_add_(0, self.class_group, observed.counts)
        self.group_means.copy_(torch.where(counts > 0, sums / counts, self.group_means))
        self._look_up()

    def _current_terms(self) -> Tensor:
        """What all steps have in common until a buffer changes, by whatever hand."""
        # What was made in inference mode has no version, and takes no writing outside of it.
        if torch.compiler.is_compiling() or self.group_means.is_inference():
            return self._found_terms()
        if self._looked_up_at != self._versions():
            self._look_up()
        return self._terms

    @torch.no_grad()
    def _look_up(self) -> None:
        # In place, for a step recorded as a CUDA graph.
        self._terms.copy_(self._found_terms())
        self._looked_up_at = [] if self.group_means.is_inference() else self._versions()

    def _found_terms(self) -> Tensor:
        means = self.group_means
        cold = means.isnan().all() if self.cold_start == "cross_entropy" else None
        group_mean = means.index_select(0, self.class_group)
        return functional.ffds_terms(self.class_weight, self.gamma, group_mean, cold)

    def _versions(self) -> list[int]:
        buffers = self.class_weight, self.gamma, self.class_group, self.group_means
        return [buffer._version for buffer in buffers]

    def extra_repr(self) -> str:
        """The settings, for repr."""
        return (
            f"classes={len(self.gamma)}, k={self.k}, num_groups={len(self.group_means)}, "
            f"label_smoothing={self.label_smoothing}, cold_start={self.cold_start!r}, "
            f"reduction={self.reduction!r}"
        )


def _look_up(loss: FFDSLoss, _: object) -> None:
    loss._look_up()


def frequency_groups(class_counts: Sequence[int] | Tensor, num_groups: int) -> Tensor:
    """Group of each class (C,) int64: sorted by falling count, cut into M groups at ⌊i·C/M⌋.

    Classes of equal count keep their label order.

    Args:
        class_counts: training images of each class, in any order.
        num_groups: M, 1 ≤ M ≤ C.

    Source: FFDS paper, Section 3a; the cut gives the group bounds of the released code.

    >>> frequency_groups([10, 40, 20, 30], 2)
    tensor([1, 0, 1, 0])
    """
    counts = validated_counts(class_counts)
    classes = len(counts)
    if not (isinstance(num_groups, SupportsIndex) and 1 <= num_groups <= classes):
        raise InputError(
            "num_groups is out of range",
            got=num_groups,
            allowed=f"1 to {classes}, the number of classes",
            fix=f"num_groups={min(classes, 10)}",
        )
    bounds = [i * classes // int(num_groups) for i in range(1, num_groups)]
    groups = torch.empty_like(counts, dtype=torch.int64)
    order = counts.argsort(descending=True, stable=True)
    groups[order] = torch.tensor([bisect_right(bounds, rank) for rank in range(classes)], device="cpu")
    return groups.to(torch.get_default_device())


def focusing_parameters(
    class_counts: Sequence[int] | Tensor, gamma_min: float, gamma_max: float, curve: Curve = "concave"
) -> Tensor:
    """FreqFocus: γ_c = γ_min + (γ_max − γ_min)·g(r), r = (n_c − n_min)/(n_max − n_min).

    g(r) is r (linear), r³ (convex) or tanh(4r) (concave). Where all counts are equal, r = 0.

    Args:
        class_counts: training images of each class, in any order.
        gamma_min: γ of the rarest class, ≥ 0.
        gamma_max: γ of the most frequent class, ≥ gamma_min.
        curve: the form of g.

    Returns:
        (C,), float32.

    Source: FFDS paper, eq. 4 to 6.

    >>> focusing_parameters([100, 55, 10], 1.0, 3.0, "linear")
    tensor([3., 2., 1.])
    """
    if not 0 <= gamma_min <= gamma_max < float("inf"):
        raise InputError(
            "focusing parameters are out of range",
            got=f"gamma_min={gamma_min}, gamma_max={gamma_max}",
            allowed="0 <= gamma_min <= gamma_max",
        )
    counts = validated_counts(class_counts)
    r = (counts - counts.min()) / (counts.max() - counts.min()).clamp_min(1)
    curves = {"linear": r, "convex": r**3, "concave": torch.tanh(4 * r)}
    if curve not in curves:
        raise InputError("unknown curve", got=curve, allowed=", ".join(curves))
    gamma = gamma_min + (gamma_max - gamma_min) * curves[curve]
    return gamma.float().to(torch.get_default_device())
