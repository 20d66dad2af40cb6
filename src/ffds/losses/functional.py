"""The losses as pure functions: one value per sample, no state, no reduction.

Every function takes logits (N, C) of any floating type and class indices (N,) int64, computes in float32 or
better, and stays finite for logits of ±1e4. Time and memory are O(N·C); nothing has the shape (C, C).
"""

from __future__ import annotations

from collections.abc import Sequence
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
    "ffds_of_terms",
    "ffds_terms",
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
        own, kept = _softmax(logits.detach(), target)
        return _differentiable(-own, logits, target, 1.0, None, kept)
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
    if smoothing == 0:
        return cross_entropy(logits, target)
    _check(logits, target)
    logits = _at_least_float32(logits)
    own, total, kept = _summed_softmax(logits.detach(), target)
    other, classes = smoothing / (logits.shape[1] - 1), logits.shape[1]
    value = -torch.add(own, torch.sub(total, own, alpha=classes), alpha=other)
    return _differentiable(value, logits, target, 1.0, torch.full_like(own, other), kept)


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
    root = k * (probability.sqrt() - group_mean.sqrt())
    return torch.addcmul(probability, root * root, group_mean - probability)


def ffds_terms(class_weight: Tensor, gamma: Tensor, group_mean: Tensor, cold: Tensor | None = None) -> Tensor:
    """What FFDS looks up for each sample, for `ffds_of_terms`: the same for many batches.

    Args:
        class_weight: w, (C,).
        gamma: focusing parameter of each class, (C,), ≥ 0.
        group_mean: p̄ of each class's group, (C,), in [0, 1]; NaN where it is not known: there p̂ = p.
        cold: () bool; where it holds, the loss is the plain cross-entropy instead.

    Returns:
        (5, C): w, γ, p̄, 1 where p̄ is known, 1 where it is not cold.

    >>> one = torch.ones(2)
    >>> ffds_terms(3 * one, 2 * one, torch.tensor([0.5, torch.nan]))
    tensor([[3.0000, 3.0000],
            [2.0000, 2.0000],
            [0.5000, 0.0000],
            [1.0000, 0.0000],
            [1.0000, 1.0000]])
    """
    known, warm = (~group_mean.isnan()).to(group_mean.dtype), torch.ones_like(group_mean)
    if cold is not None:
        class_weight, gamma = class_weight.masked_fill(cold, 1.0), gamma.masked_fill(cold, 0.0)
        warm = warm.masked_fill(cold, 0.0)
    return torch.stack((class_weight, gamma, group_mean.nan_to_num(0), known, warm))


def ffds(
    logits: Tensor,
    target: Tensor,
    *,
    class_weight: Tensor,
    gamma: Tensor,
    group_mean: Tensor,
    k: float = 0.9,
    smoothing: float = 0.1,
) -> tuple[Tensor, Tensor]:
    """FFDS: −w_y · (1 − p̂_y)^γ_y · Σ_j Q(j) log p_j.

    The weight w_y·(1 − p̂_y)^γ_y is a constant for the gradient, as in the authors' released code.

    Args:
        logits: (N, C).
        target: (N,).
        class_weight: see `ffds_terms`, as all below.
        gamma: (C,).
        group_mean: (C,).
        k: 0 ≤ k ≤ 1.
        smoothing: 0 ≤ ε < 1.

    Returns:
        The loss (N,), which can be differentiated once, and p_y (N,) without gradient: what a caller needs
        for the group means, at no further cost.

    Source: FFDS paper, eq. 1 to 3.
    """
    terms = ffds_terms(class_weight, gamma, group_mean)
    return ffds_of_terms(logits, target, terms, k, smoothing)


def ffds_of_terms(
    logits: Tensor, target: Tensor, terms: Tensor, k: float, smoothing: float
) -> tuple[Tensor, Tensor]:
    """As `ffds`, from what `ffds_terms` found, (5, C)."""
    check_classes(logits, target, terms.shape[1:])
    logits = _at_least_float32(logits)
    classes = logits.shape[1]
    other = smoothing / (classes - 1) if smoothing else 0.0
    # Small operations of many kinds would take longer than all classes do: these are few and alike.
    own, total, kept = _summed_softmax(logits.detach(), target)
    class_weight, gamma, mean, known, warm = terms.index_select(1, target).unbind()
    probability = own.exp()
    root = known * (probability.sqrt() - mean.sqrt())
    difficulty = -torch.addcmul(own.expm1(), root * root, mean - probability, value=k * k)
    weight = class_weight * difficulty.clamp_min(0).pow(gamma)
    spread = weight * warm
    value = torch.addcmul(weight * own, torch.sub(total, own, alpha=classes), spread, value=other)
    return _differentiable(-value, logits, target, weight, spread * other, kept), probability


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
    logits = _at_least_float32(logits)
    own, kept = _softmax(logits.detach() * scale, target, shift.to(logits.dtype))
    return _differentiable(-own, logits, target, scale, None, kept)


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
    check_classes(logits, target, per_class.shape)
    return per_class.index_select(0, target)


def check_classes(logits: Tensor, target: Tensor, per_class: torch.Size) -> None:
    """Refuse logits (N, C) and target (N,) that do not fit together, or values of classes not of shape (C,).

    Raises:
        InputError: see `per_sample`.
    """
    _check(logits, target)
    if per_class != logits.shape[1:]:
        raise InputError(
            "logits have another number of classes than the loss",
            got=f"logits {tuple(logits.shape)}, loss {tuple(per_class)}",
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


def _softmax(
    logits: Tensor, target: Tensor, shift: Tensor | None = None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The labels' log p_y, (N,), and what `_given_to_logits` needs; their shift (N,) ≤ 0 comes first."""
    label = target.unsqueeze(1)
    if torch.compiler.is_compiling():
        return _compiled_softmax(logits, label, shift)
    if shift is None:
        log_probability = F.log_softmax(logits, dim=1)
    else:
        logits.scatter_add_(1, label, shift.unsqueeze(1))
        # In its own place: a row is read for its maximum and sum before the first value of it is written.
        log_probability = torch.log_softmax(logits, dim=1, out=logits)
    return log_probability.gather(1, label).squeeze(1), (log_probability,)


def _compiled_softmax(
    logits: Tensor, label: Tensor, shift: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """With one exp for each logit: what is kept is e_j = exp(z_j − max z), and not log p_j."""
    shifted = logits - logits.amax(dim=1, keepdim=True)
    own, powers = shifted.gather(1, label).squeeze(1), shifted.exp()
    # The label has its own place in the gradient. And a scattered tensor is kept for the backward pass,
    # where the compiler would rather have computed an exp anew.
    others = powers.scatter(1, label, 0.0)
    if shift is None:
        whole = powers.sum(dim=1)
        log_whole = whole.log()
        rest = -whole * torch.expm1(own - log_whole)
    else:
        own, rest = own + shift, others.sum(dim=1)
        log_whole = (rest + own.exp()).log()
    return own - log_whole, (others, rest, log_whole)


def _summed_softmax(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """As `_softmax`, and in between Σ_j log p_j, (N,)."""
    own, kept = _softmax(logits, target)
    if not torch.compiler.is_compiling():
        return own, kept[0].sum(dim=1), kept
    _, _, log_whole = kept
    shifted = logits - logits.amax(dim=1, keepdim=True)
    return own, shifted.sum(dim=1) - logits.shape[1] * log_whole, kept


def _differentiable(
    value: Tensor,
    logits: Tensor,
    target: Tensor,
    whole: Tensor | float,
    other: Tensor | None,
    kept: tuple[Tensor, ...],
) -> Tensor:
    """A value (N,), computed without gradient, with that of −Σ_j q_j log p_j.

    Args:
        value: (N,).
        logits: (N, C).
        target: (N,).
        whole: Σ_j q_j, (N,) or one for all.
        other: q_j of each class but the label, (N,); None for 0.
        kept: of `_softmax`.
    """
    weight, scale = (whole, 1.0) if isinstance(whole, Tensor) else (None, whole)
    found: Tensor = _Differentiable.apply(value, logits, target, scale, weight, other, *kept)
    return found


class _Differentiable(torch.autograd.Function):
    """A gradient written into one (N, C) buffer.

    Composed of torch's functions, the backward pass would fill three, and take twice as long as that of
    `F.cross_entropy`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        logits: Tensor,
        target: Tensor,
        scale: float,
        weight: Tensor | None,
        other: Tensor | None,
        *kept: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(target, weight, other, *kept)
        ctx.scale = scale
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        target, weight, other, *kept = ctx.saved_tensors
        whole = gradient * ctx.scale if weight is None else gradient * weight
        other = None if other is None else gradient * other
        found = _given_to_logits(kept, target.unsqueeze(1), whole, other)
        return None, found, None, None, None, None, *(None for _ in kept)


def _given_to_logits(kept: Sequence[Tensor], label: Tensor, whole: Tensor, other: Tensor | None) -> Tensor:
    """(Σ_j q_j)·p − q, (N, C): `other` is q of each class but the label, `whole` the sum over all, (N,)."""
    if torch.compiler.is_compiling():
        others, rest, log_whole = kept
        # Used twice and with an exp in it, it is computed once a sample, and not for each class.
        factor = whole * torch.exp(-log_whole)
        found, own = others * factor.unsqueeze(1), -factor * rest
        if other is not None:
            found, own = found - other.unsqueeze(1), own + (others.shape[1] - 1) * other
        return found.scatter(1, label, own.unsqueeze(1))
    (log_probability,) = kept
    if other is None:
        found, own = torch.zeros_like(log_probability), -whole
    else:
        found = (-other).unsqueeze(1).expand_as(log_probability).contiguous()
        own = torch.add(-whole, other, alpha=log_probability.shape[1])
    found.scatter_add_(1, label, own.unsqueeze(1))
    # Uncompiled, `torch.exp` alone takes twice as long as all of this kernel. In its own place, as above.
    backward = torch.ops.aten._log_softmax_backward_data.out
    return backward(found, log_probability, 1, found.dtype, out=found)  # type: ignore[no-any-return]


def _focusing(ce: Tensor, gamma: float) -> Tensor:
    if gamma == 0:
        return torch.ones_like(ce)
    difficulty = -torch.expm1(-ce)
    return difficulty.clamp_min(torch.finfo(ce.dtype).tiny).pow(gamma)
