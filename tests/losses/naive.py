"""The papers' formulas, one sample and one class at a time, in float64; nothing is shared with `ffds`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def softmax(logits: Tensor) -> Tensor:
    rows = []
    for row in logits.double():
        powers = [torch.exp(z - row.detach().max()) for z in row]
        rows.append(torch.stack([power / sum(powers) for power in powers]))
    return torch.stack(rows)


def label_probability(logits: Tensor, target: Tensor) -> list[Tensor]:
    return [row[label] for row, label in zip(softmax(logits), target.tolist(), strict=True)]


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return torch.stack([-torch.log(p) for p in label_probability(logits, target)])


def focal(logits: Tensor, target: Tensor, gamma: float, weight: Sequence[float] | None = None) -> Tensor:
    weight = [1.0] * logits.shape[1] if weight is None else weight
    pairs = zip(label_probability(logits, target), target.tolist(), strict=True)
    return torch.stack([weight[label] * (1 - p) ** gamma * -torch.log(p) for p, label in pairs])


def margins(counts: Sequence[int], max_margin: float) -> list[float]:
    largest = max(n ** (-1 / 4) for n in counts)
    return [max_margin * n ** (-1 / 4) / largest for n in counts]


def ldam(cosines: Tensor, target: Tensor, margin: Sequence[float], scale: float) -> Tensor:
    rows = []
    for row, label in zip(cosines.double(), target.tolist(), strict=True):
        shifted = [scale * (x - margin[label] if c == label else x) for c, x in enumerate(row)]
        rows.append(torch.stack(shifted))
    return cross_entropy(torch.stack(rows), target)


def adjusted(logits: Tensor, target: Tensor, factor: Sequence[float], shift: Sequence[float]) -> Tensor:
    """Cross-entropy of Δ_c·z_c + ι_c."""
    rows = []
    for row in logits.double():
        rows.append(torch.stack([d * z + i for d, z, i in zip(factor, row, shift, strict=True)]))
    return cross_entropy(torch.stack(rows), target)


def sigmoid_focal(logits: Tensor, target: Tensor, gamma: float) -> Tensor:
    """A class that is masked out is never taken for the label, and its term is 0."""
    losses = []
    for row, label in zip(logits.double(), target.tolist(), strict=True):
        signs = [1 if c == label else -1 for c in range(len(row))]
        terms = [(s * z, torch.sigmoid(s * z)) for s, z in zip(signs, row, strict=True) if s * z < torch.inf]
        losses.append(sum((1 - p) ** gamma * -F.logsigmoid(z) for z, p in terms))
    return torch.stack(losses)


def cloud_sizes(counts: Sequence[int], largest: float) -> list[float]:
    rarity = [math.log(max(counts)) - math.log(n) for n in counts]
    return [largest * r / max(rarity) for r in rarity]


def gcl(cosines: Tensor, target: Tensor, scale: float, margin: float, gamma: float) -> Tensor:
    """Of cosines less their noise."""
    ce = ldam(cosines, target, [margin] * cosines.shape[1], scale)
    return (1 - torch.exp(-ce.detach())) ** gamma * ce


def lade(logits: Tensor, target: Tensor, counts: Sequence[int], alpha: float, penalty: float) -> Tensor:
    """The mean over a batch of labels."""
    prior, classes, labels = [n / sum(counts) for n in counts], len(counts), target.tolist()
    ce = adjusted(logits, target, [1.0] * classes, [math.log(p) for p in prior]).mean()
    regulariser = 0.0
    for c in range(classes):
        column = logits[:, c].double()
        own = [z for z, label in zip(column, labels, strict=True) if label == c]
        a = sum(own) / len(own) if own else 0.0
        b = torch.log(sum(torch.exp(z) / classes / prior[c] for z in column) / len(labels))
        regulariser = regulariser - prior[c] * (a - b - penalty * b**2)
    return ce + alpha * regulariser


def influence_balanced(
    logits: Tensor,
    target: Tensor,
    features: Tensor,
    alpha: float,
    epsilon: float,
    gamma: float,
    weight: Sequence[float] | None = None,
) -> Tensor:
    """With weights, p of the focal factor is that of the weighted cross-entropy, as in the released code."""
    losses = []
    for p, label, h in zip(softmax(logits), target.tolist(), features.double(), strict=True):
        one_hot = torch.tensor([float(c == label) for c in range(len(p))], dtype=torch.float64)
        influence = sum(abs(x) for x in p - one_hot) * sum(abs(x) for x in h)
        cross_entropy = -torch.log(p[label]) * (1.0 if weight is None else weight[label])
        focusing = (1 - torch.exp(-cross_entropy)) ** gamma
        losses.append(focusing * cross_entropy * alpha / (influence + epsilon))
    return torch.stack(losses)


def exponential_counts(largest: int, classes: int, factor: float) -> list[int]:
    return [int(largest * factor ** (-c / (classes - 1))) for c in range(classes)]


def balanced_weights(counts: Sequence[int], beta: float) -> list[float]:
    return [(1 - beta) / (1 - beta**n) for n in counts]


def scaled(weights: Sequence[float], scale: str) -> list[float]:
    """The released line divides by the sum times the number of classes, where it was meant to multiply."""
    classes, total = len(weights), sum(weights)
    if scale == "mean":
        return [w * classes / total for w in weights]
    return [w / (total * classes) for w in weights] if scale == "released" else list(weights)


def groups(counts: Sequence[int], num_groups: int) -> list[int]:
    falling = sorted(range(len(counts)), key=lambda c: counts[c], reverse=True)
    group = [-1] * len(counts)
    for m in range(num_groups):
        for c in falling[m * len(counts) // num_groups : (m + 1) * len(counts) // num_groups]:
            group[c] = m
    return group


def focusing(counts: Sequence[int], gamma_min: float, gamma_max: float, curve: str) -> list[float]:
    values = []
    for n in counts:
        r = (n - min(counts)) / (max(counts) - min(counts)) if max(counts) > min(counts) else 0.0
        g = {"linear": r, "convex": r * r * r, "concave": math.tanh(4 * r)}[curve]
        values.append(gamma_min + (gamma_max - gamma_min) * g)
    return values


def smoothed(logits: Tensor, target: Tensor, epsilon: float) -> Tensor:
    """A class without any probability, one masked out, has no term."""
    losses = []
    for p, label in zip(softmax(logits), target.tolist(), strict=True):
        q = [1 - epsilon if j == label else epsilon / (len(p) - 1) for j in range(len(p))]
        losses.append(-sum(q_j * torch.log(p_j) for q_j, p_j in zip(q, p, strict=True) if p_j > 0))
    return torch.stack(losses)


def ffds(
    logits: Tensor,
    target: Tensor,
    weight: Sequence[float],
    gamma: Sequence[float],
    means: Sequence[float],
    k: float,
    label_smoothing: float,
) -> Tensor:
    """FFDS with the group mean of each class; NaN where the group was never seen."""
    losses = []
    cross_entropies = smoothed(logits, target, label_smoothing)
    for p, ce, label in zip(
        label_probability(logits.detach(), target), cross_entropies, target.tolist(), strict=True
    ):
        p_hat, mean = float(p), means[label]
        if not math.isnan(mean):
            p_hat -= (k * (math.sqrt(p) - math.sqrt(mean))) ** 2 * (float(p) - mean)
        losses.append(weight[label] * (1 - p_hat) ** gamma[label] * ce)
    return torch.stack(losses)
