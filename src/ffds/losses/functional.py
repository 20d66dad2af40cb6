"""The losses as pure functions: one value per sample, no state, no reduction.

Every function takes logits (N, C) of any floating type and class indices (N,) int64, computes in float32 or
better, and stays finite for logits of ±1e4. Time and memory are O(N·C); nothing has the shape (C, C).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ffds.errors import InputError

__all__ = [
    "check_classes",
    "cross_entropy",
    "dynamic_smoothing",
    "ffds",
    "focal",
    "influence_balanced",
    "label_smoothed_cross_entropy",
    "ldam",
    "per_sample",
]


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """−log p_y for each sample.

    >>> cross_entropy(torch.zeros(1, 4), torch.tensor([2])).exp()
    tensor([4.])
    """
    _check(logits, target)
    logits = _at_least_float32(logits)
    if torch.compiler.is_compiling():
        # From the composed function the compiler makes a backward pass that compares each class with the
        # label, several times as slow. That one can be differentiated twice, but no compiled function can.
        found: tuple[Tensor, Tensor] = _SmoothedCrossEntropy.apply(logits, target, 0.0)
        return found[1]
    return _negative_log(F.log_softmax(logits, dim=1), target)


def label_smoothed_cross_entropy(logits: Tensor, target: Tensor, smoothing: float = 0.1) -> Tensor:
    """−Σ_j Q(j) log p_j with Q = 1 − ε at the label and ε/(C−1) elsewhere.

    This is not torch's `label_smoothing`, which spreads ε over all C classes, the label's among them.

    Args:
        logits: (N, C).
        target: (N,).
        smoothing: ε, 0 ≤ ε < 1.

    Returns:
        (N,), ≥ 0; it can be differentiated once.

    Source: FFDS paper, eq. 1 and 2.

    >>> label_smoothed_cross_entropy(torch.tensor([[20.0, 0.0, 0.0]]), torch.tensor([0]))
    tensor([2.])
    """
    return _smoothed(logits, target, smoothing)[0]


def dynamic_smoothing(probability: Tensor, group_mean: Tensor, k: float = 0.9) -> Tensor:
    """DynaSmooth: p̂ = p − f(d)·(p − p̄), d = √p − √p̄, f(d) = (k·d)².

    Args:
        probability: p of the label, any shape, in [0, 1].
        group_mean: p̄, mean of p over the label's group in the previous epoch, same shape, in [0, 1].
        k: 0 ≤ k ≤ 1; 0 leaves p as it is.

    Returns:
        p̂, between p and p̄.

    Source: FFDS paper, Section 3a and eq. 3.

    >>> dynamic_smoothing(torch.tensor([1.0, 0.25]), torch.tensor([0.25, 0.25]), k=1.0)
    tensor([0.8125, 0.2500])
    """
    fraction = (k * (probability.sqrt() - group_mean.sqrt())).square()
    return probability - fraction * (probability - group_mean)


def ffds(
    logits: Tensor,
    target: Tensor,
    *,
    class_weight: Tensor,
    gamma: Tensor,
    group_mean: Tensor,
    k: float = 0.9,
    smoothing: float = 0.1,
) -> tuple[Tensor, Tensor, Tensor]:
    """FFDS: −w_y · (1 − p̂_y)^γ_y · Σ_j Q(j) log p_j.

    The weight w_y·(1 − p̂_y)^γ_y is a constant for the gradient, as in the authors' released code.

    Args:
        logits: (N, C).
        target: (N,).
        class_weight: w, (C,).
        gamma: focusing parameter of each class, (C,), ≥ 0.
        group_mean: p̄ of each class's group, (C,), in [0, 1]; NaN where it is not known: there p̂ = p.
        k: strength of DynaSmooth, 0 ≤ k ≤ 1.
        smoothing: ε of the label smoothing, 0 ≤ ε < 1.

    Returns:
        The loss (N,), the plain cross-entropy (N,), and p_y (N,) without gradient: what a caller needs for
        a cold start and for the group means, at no further cost. Both losses can be differentiated once.

    Source: FFDS paper, eq. 1 to 3.
    """
    smoothed_ce, ce = _smoothed(logits, target, smoothing)
    with torch.no_grad():
        probability = torch.exp(-ce)
        mean = per_sample(group_mean, logits, target)
        mean = torch.where(mean.isnan(), probability, mean)
        difficulty = (1 - dynamic_smoothing(probability, mean, k)).clamp_min(0)
        weight = per_sample(class_weight, logits, target)
        weight = weight * difficulty.pow(per_sample(gamma, logits, target))
    return weight * smoothed_ce, ce, probability


def focal(logits: Tensor, target: Tensor, gamma: float = 1.0) -> Tensor:
    """Focal loss: (1 − p_y)^γ · (−log p_y), with the gradient through both factors.

    Args:
        logits: (N, C).
        target: (N,).
        gamma: γ ≥ 0; 0 is cross-entropy. γ < 1 is the hard regime: the slope of (1 − p)^γ has no bound at
            p = 1, so 1 − p is kept above the smallest normal number.

    Returns:
        (N,), ≥ 0.

    Source: Lin et al., "Focal loss for dense object detection", eq. 4.

    >>> focal(torch.zeros(1, 2), torch.tensor([0]), gamma=1.0)
    tensor([0.3466])
    """
    ce = cross_entropy(logits, target)
    return _focusing(ce, gamma) * ce


def ldam(logits: Tensor, target: Tensor, margin: Tensor, scale: float = 30.0) -> Tensor:
    """LDAM: cross-entropy of s·(x − m_y·e_y).

    Args:
        logits: x, (N, C): cosines in [−1, 1] from a normalised head. On unbounded logits s = 30 diverges.
        target: (N,).
        margin: m, (C,), ≥ 0; a constant for the gradient.
        scale: s > 0.

    Returns:
        (N,), ≥ 0; it can be differentiated once.

    Source: Cao et al., "Learning imbalanced datasets with label-distribution-aware margin loss", eq. 13.
    """
    shift = -scale * per_sample(margin, logits, target)
    found: Tensor = _MarginCrossEntropy.apply(_at_least_float32(logits), target, shift, scale)
    return found


def influence_balanced(
    logits: Tensor,
    target: Tensor,
    features: Tensor,
    *,
    alpha: float = 1000.0,
    epsilon: float = 1e-3,
    gamma: float = 0.0,
) -> Tensor:
    """Influence-balanced loss: (1 − p_y)^γ · CE · α / (‖p − e_y‖₁ · ‖h‖₁ + ε).

    ‖p − e_y‖₁ = 2·(1 − p_y), so no (N, C) difference is formed. The gradient runs through every factor, as
    in the released code.

    Args:
        logits: (N, C).
        target: (N,).
        features: h, (N, D), the input of the last linear layer.
        alpha: α > 0.
        epsilon: ε > 0.
        gamma: focusing parameter ≥ 0; 0 for the plain loss, 1 for IB-FL.

    Returns:
        (N,), ≥ 0.

    Source: Park et al., "Influence-balanced loss for imbalanced visual classification", ICCV 2021, eq. 9.
    """
    if features.ndim != 2 or len(features) != len(logits):
        raise InputError(
            "logits and features do not fit together",
            got=f"logits {tuple(logits.shape)}, features {tuple(features.shape)}",
            allowed="logits (N, C), features (N, D)",
        )
    ce = cross_entropy(logits, target)
    distance = -2 * torch.expm1(-ce)
    norm = _at_least_float32(features).abs().sum(dim=1)
    return _focusing(ce, gamma) * ce * (alpha / (distance * norm + epsilon))


def per_sample(per_class: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    """The value of each sample's class.

    Args:
        per_class: one value for each class, (C,).
        logits: (N, C).
        target: (N,).

    Returns:
        (N,).

    Raises:
        InputError: the logits have another number of classes. A label would otherwise take the value of a
            wrong class without a word.

    >>> per_sample(torch.tensor([0.5, 2.0]), torch.zeros(3, 2), torch.tensor([1, 0, 1]))
    tensor([2.0000, 0.5000, 2.0000])
    """
    check_classes(logits, target, per_class)
    return per_class.index_select(0, target)


def check_classes(logits: Tensor, target: Tensor, per_class: Tensor) -> None:
    """Refuse logits (N, C) and target (N,) that do not fit together, or not one value for each class (C,).

    Raises:
        InputError: see `per_sample`.
    """
    _check(logits, target)
    if per_class.shape != logits.shape[1:]:
        raise InputError(
            "logits have another number of classes than the loss",
            got=f"logits {tuple(logits.shape)}, loss {tuple(per_class.shape)}",
            fix="give the loss the counts or weights of all classes of the model",
        )


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _check(logits: Tensor, target: Tensor) -> None:
    # A uint8 target would pass nll_loss and then select classes as a mask.
    if logits.ndim != 2 or target.shape != logits.shape[:1] or target.dtype != torch.int64:
        raise InputError(
            "logits and target do not fit together",
            got=f"logits {tuple(logits.shape)}, target {tuple(target.shape)} {target.dtype}",
            allowed="logits (N, C), target (N,) int64",
        )


def _negative_log(log_probability: Tensor, target: Tensor) -> Tensor:
    # torch's default, -100, would let such a label pass as a sample of zero loss.
    return F.nll_loss(log_probability, target, ignore_index=-(2**31), reduction="none")


def _smoothed(logits: Tensor, target: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Smoothed and plain cross-entropy, both (N,)."""
    if smoothing == 0:
        ce = cross_entropy(logits, target)
        return ce, ce
    _check(logits, target)
    found: tuple[Tensor, Tensor] = _SmoothedCrossEntropy.apply(_at_least_float32(logits), target, smoothing)
    return found


class _SmoothedCrossEntropy(torch.autograd.Function):
    """Both cross-entropies, with a gradient written into one (N, C) buffer.

    Composed of torch's functions, the backward pass would fill three, and take twice as long as that of
    `F.cross_entropy`.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
        log_probability = F.log_softmax(logits, dim=1)
        ce = _negative_log(log_probability, target)
        other = smoothing / (logits.shape[1] - 1)
        ctx.save_for_backward(log_probability, target)
        ctx.own, ctx.other = 1 - smoothing - other, other
        return ctx.own * ce - other * log_probability.sum(dim=1), ce

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        if torch.compiler.is_compiling() and ctx.other == 0:
            # Unlike the weight of FFDS, that of a focal loss has a gradient of its own, computed just before.
            gradients = tuple(_materialized(gradient) for gradient in gradients)
        smoothed, plain = (gradient.unsqueeze(1) for gradient in gradients)
        log_probability, target = ctx.saved_tensors
        own, other = -(ctx.own * smoothed + plain), -ctx.other * smoothed
        return _given_to_logits(log_probability, target, own, other), None, None


def _given_to_logits(log_probability: Tensor, target: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """d/dz, (N, C), from d/d(log p): `other` for every class and `own` more for the label, both (N, 1)."""
    if torch.compiler.is_compiling():
        total = own + log_probability.shape[1] * other
        found = log_probability.exp().mul_(-total).add_(other)
        return found.scatter_add_(1, target.unsqueeze(1), own)
    # Uncompiled, `torch.exp` alone takes twice as long as all of this kernel.
    found = other.expand_as(log_probability).contiguous().scatter_add_(1, target.unsqueeze(1), own)
    return torch.ops.aten._log_softmax_backward_data(found, log_probability, 1, found.dtype)  # type: ignore[no-any-return]


@torch.library.custom_op("ffds::materialized", mutates_args=())
def _materialized(per_sample: Tensor) -> Tensor:
    """A copy that the compiler cannot see into: it would compute a sample's factor anew for every class."""
    return per_sample.clone()


@_materialized.register_fake
def _(per_sample: Tensor) -> Tensor:
    return torch.empty_like(per_sample)


class _MarginCrossEntropy(torch.autograd.Function):
    """Cross-entropy of scaled logits with the label's shifted; again one (N, C) buffer for the gradient."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, shift: Tensor, scale: float) -> Tensor:
        scaled = logits * scale
        scaled.scatter_add_(1, target.unsqueeze(1), shift.to(scaled.dtype).unsqueeze(1))
        # In its own place: a row is read for its maximum and sum before the first value of it is written.
        place = None if torch.compiler.is_compiling() else scaled
        log_probability = torch.log_softmax(scaled, dim=1, out=place)
        ctx.save_for_backward(log_probability, target)
        ctx.scale = scale
        return _negative_log(log_probability, target)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        log_probability, target = ctx.saved_tensors
        own = -ctx.scale * gradient.unsqueeze(1)
        return _given_to_logits(log_probability, target, own, torch.zeros_like(own)), None, None, None


def _focusing(ce: Tensor, gamma: float) -> Tensor:
    if gamma == 0:
        return torch.ones_like(ce)
    difficulty = -torch.expm1(-ce)
    return difficulty.clamp_min(torch.finfo(ce.dtype).tiny).pow(gamma)
