"""FFDS: dynamic probability smoothing and frequency weighted focusing (Nah et al., ICIP 2023)."""

from __future__ import annotations

from typing import Any, Literal, Self, SupportsIndex

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from ffds.errors import InputError
from ffds.losses.base import ClassificationLoss, ClassProbabilities, Reduction, checked
from ffds.losses.weights import PerClass, WeightScale, class_balanced_weights, validated_counts

__all__ = ["FFDSLoss", "dynamic_smoothing", "focusing_parameters", "frequency_groups"]

Curve = Literal["linear", "convex", "concave"]
ColdStart = Literal["cross_entropy", "unsmoothed"]


def dynamic_smoothing(probability: Tensor, group_mean: Tensor, k: float = 0.9) -> Tensor:
    """DynaSmooth: p̂ = p − (k·d)²·(p − p̄), d = √p − √p̄, between p and p̄ (eq. 3); 0 ≤ k ≤ 1.

    >>> dynamic_smoothing(torch.tensor([1.0, 0.25]), torch.tensor([0.25, 0.25]), k=1.0)
    tensor([0.8125, 0.2500])
    """
    d = probability.sqrt() - group_mean.sqrt()
    return probability - (k * d) ** 2 * (probability - group_mean)


def focusing_parameters(
    class_counts: PerClass, gamma_min: float, gamma_max: float, curve: Curve = "concave"
) -> Tensor:
    """FreqFocus: γ_c = γ_min + (γ_max − γ_min)·g(r), r = (n_c − n_min)/(n_max − n_min), (C,) (eq. 4 to 6).

    g(r) is r (linear), r³ (convex) or tanh(4r) (concave). Where all counts are equal, r = 0.

    >>> focusing_parameters([100, 55, 10], 1.0, 3.0, "linear")
    tensor([3., 2., 1.])
    """
    if not 0 <= gamma_min <= gamma_max < float("inf"):
        got, allowed = f"gamma_min={gamma_min}, gamma_max={gamma_max}", "0 <= gamma_min <= gamma_max"
        raise InputError("focusing parameters are out of range", got=got, allowed=allowed)
    counts = validated_counts(class_counts)
    r = (counts - counts.min()) / (counts.max() - counts.min()).clamp_min(1)
    curves = {"linear": r, "convex": r**3, "concave": torch.tanh(4 * r)}
    if curve not in curves:
        raise InputError("unknown curve", got=curve, allowed=", ".join(curves))
    gamma = gamma_min + (gamma_max - gamma_min) * curves[curve]
    return gamma.float().to(torch.get_default_device())


def frequency_groups(class_counts: PerClass, num_groups: int | None = None) -> Tensor:
    """Group of each class, (C,) int64: sorted by falling count, equal ones by label, cut at ⌊i·C/M⌋.

    M = `num_groups`, None for min(10, C). The cut gives the group bounds of the authors' code (Section 3a).

    >>> frequency_groups([10, 40, 20, 30], 2)
    tensor([1, 0, 1, 0])
    """
    counts = validated_counts(class_counts)
    classes, default = len(counts), min(len(counts), 10)
    groups = default if num_groups is None else num_groups
    if not (isinstance(groups, SupportsIndex) and 1 <= groups <= classes):
        allowed, fix = f"1 to {classes}, the number of classes", f"num_groups={default}, or None"
        raise InputError("num_groups is out of range", got=groups, allowed=allowed, fix=fix)
    rank = counts.argsort(descending=True, stable=True).argsort()
    return (((rank + 1) * int(groups) - 1) // classes).to(torch.get_default_device())


class FFDSLoss(ClassificationLoss):
    """−w_y · (1 − p̂_y)^γ_y · Σ_j Q(j) log p_j (eq. 1), Q = 1 − ε at the label and ε/(C−1) elsewhere.

    In training mode each call that records gradients also gathers p_y for the mean of its class group, and
    `end_epoch` makes those means the reference p̄ of the next epoch. Evaluation mode, `torch.no_grad`,
    `torch.inference_mode` and the transforms of `torch.func` gather nothing.
    A class masked out, by a logit of −∞ or of the smallest number of its type, is left out of the sum over j.

    Args:
        class_counts: training images of each class, each ≥ 1, in any form of `ffds.losses.weights.PerClass`.
        beta: β of the class-balanced weight w, 0 ≤ β < 1.
        k: strength of DynaSmooth, 0 ≤ k ≤ 1; 0 switches it off.
        num_groups: M, 1 ≤ M ≤ C; None: 10, or C if that is less.
        gamma_min, gamma_max: 0 ≤ γ of the rarest class ≤ γ of the most frequent class.
        curve: how γ grows between them with the count: ``"linear"``, ``"convex"`` or ``"concave"``.
        label_smoothing: ε, 0 ≤ ε < 1; unlike torch's it is spread over the C − 1 other classes.
        weight_scale: of `class_balanced_weights`; it decides the effective learning rate.
        cold_start: loss before any group mean exists: ``"cross_entropy"`` or ``"unsmoothed"`` (p̂ = p).
        ignore_index, reduction: as in `ffds.losses.base.ClassificationLoss`.

    Attributes:
        class_weight, gamma, class_group: w, γ and group of each class (C,); group 0 has the most images.
        group_means: p̄ of each group (M,), NaN until an epoch ends that has a sample of the group.

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

    def __init__(
        self,
        class_counts: PerClass,
        *,
        beta: float = 0.9999,
        k: float = 0.9,
        num_groups: int | None = None,
        gamma_min: float = 0.0,
        gamma_max: float = 3.0,
        curve: Curve = "concave",
        label_smoothing: float = 0.1,
        weight_scale: WeightScale = "mean",
        cold_start: ColdStart = "cross_entropy",
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(ignore_index, reduction)
        if not 0 <= k <= 1:
            raise InputError("k is out of range", got=k, allowed="0 <= k <= 1")
        if not 0 <= label_smoothing < 1:
            raise InputError("label_smoothing is out of range", got=label_smoothing, allowed="0 <= ε < 1")
        if cold_start not in ("cross_entropy", "unsmoothed"):
            raise InputError("unknown cold_start", got=cold_start, allowed="cross_entropy, unsmoothed")
        self.k, self.label_smoothing, self.cold_start = k, label_smoothing, cold_start
        groups = frequency_groups(class_counts, num_groups)
        number = min(len(groups), 10) if num_groups is None else int(num_groups)
        self.register_buffer("class_weight", class_balanced_weights(class_counts, beta, weight_scale))
        self.register_buffer("gamma", focusing_parameters(class_counts, gamma_min, gamma_max, curve))
        self.register_buffer("class_group", groups)
        self.register_buffer("group_means", torch.full((number,), torch.nan, dtype=torch.float32))
        self.gathered = ClassProbabilities(len(groups))

    @classmethod
    def from_labels(cls, labels: ArrayLike | Tensor, num_classes: int | None = None, **settings: Any) -> Self:
        """The loss for training images with these labels (N,), 0 to C − 1; C = the largest + 1 for None."""
        array = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
        whole = array.ndim == 1 and array.dtype.kind in "iu" and array.size > 0
        if not whole or array.min() < 0 or array.max() >= (num_classes or np.inf):
            allowed = f"one whole number for each image, 0 to {num_classes - 1 if num_classes else 'C - 1'}"
            raise InputError("labels cannot be counted", got=f"{array.dtype} {array}", allowed=allowed)
        return cls(np.bincount(array.astype(np.int64), minlength=num_classes or 0), **settings)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits (N, C), target (N,) or (N, C) → () or (N,); gathers statistics in training."""
        # float16 has no number as small as a logit that masks a class in other types.
        masked = max(torch.finfo(logits.dtype).min / 2, -1e30)
        logits, target = checked(logits, target, len(self.gamma))
        log_p = F.log_softmax(logits, dim=1)
        log_p_y = self.at_label(log_p, target)
        others = F.threshold(log_p, masked, 0.0).sum(dim=1, keepdim=target.ndim == 2)
        others = (others - F.threshold(log_p_y, masked, 0.0)) / (log_p.shape[1] - 1)
        smoothed = (1 - self.label_smoothing) * log_p_y + self.label_smoothing * others  # Σ_j Q(j) log p_j
        values = -self._weight(log_p_y, target) * smoothed
        if self.cold_start == "cross_entropy":
            values = torch.where(self.group_means.isnan().all(), -log_p_y, values)
        if self.training:
            self.gathered.observe_step(log_p, target, self.ignore_index)
        return self.reduced(values, target)

    @torch.no_grad()
    def _weight(self, log_p_y: Tensor, target: Tensor) -> Tensor:
        """w_y · (1 − p̂_y)^γ_y, a constant for the gradient, as in the authors' released code."""
        p, mean = log_p_y.exp(), self.at_label(self.group_means[self.class_group], target)
        p_hat = dynamic_smoothing(p, torch.where(mean.isnan(), p, mean), self.k)
        focusing = (1 - p_hat).clamp_min(0) ** self.at_label(self.gamma, target)
        return (self.at_label(self.class_weight, target) * focusing).to(p.dtype)

    def observe(self, logits: Tensor, target: Tensor) -> None:
        """Only gather, in any mode, as in the last epoch of another loss before a deferred start."""
        self.gathered.observe(logits, target, self.ignore_index)

    def end_epoch(self) -> None:
        """Make the epoch's group means over all ranks, each of which must call it, the reference."""
        self.gathered.sum_over_ranks()
        self.start_from(self.gathered)
        self.gathered.clear()

    @torch.no_grad()
    def start_from(self, observed: ClassProbabilities) -> None:
        """Make the group means of an epoch observed elsewhere, over all ranks, the reference."""
        sums = torch.zeros_like(self.group_means).index_add_(0, self.class_group, observed.sums)
        counts = torch.zeros_like(sums, dtype=torch.int64).index_add_(0, self.class_group, observed.counts)
        self.group_means.copy_(torch.where(counts > 0, sums / counts, self.group_means))

    def extra_repr(self) -> str:
        """The settings, for repr."""
        sizes = f"classes={len(self.gamma)}, k={self.k}, num_groups={len(self.group_means)}"
        how = f"label_smoothing={self.label_smoothing}, cold_start={self.cold_start!r}"
        return f"{sizes}, {how}, {super().extra_repr()}"
