"""Every loss in the states it can be in, the batches it is given, and its twin by the naive formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from ffds.losses import (
    DifficultyBalancedLoss,
    FFDSLoss,
    FocalLoss,
    GCLLoss,
    InfluenceBalancedLoss,
    LDAMLoss,
    LogitAdjustedLoss,
    SigmoidFocalLoss,
    VSLoss,
    WeightedCrossEntropyLoss,
    class_balanced_weights,
    inverse_frequency_weights,
)
from tests.losses import naive


def difficulty_balanced(counts: list[int] | Tensor, **how: Any) -> DifficultyBalancedLoss:
    """After an epoch in which the classes were from one to seven tenths right."""
    loss = DifficultyBalancedLoss(len(counts), **how)
    loss.renew(torch.linspace(0.1, 0.7, len(counts), dtype=torch.float64))
    return loss


COUNTS = [40, 500, 7, 120, 3]
WIDTH = 6

LOSSES: dict[str, Callable[..., Any]] = {
    "ffds": lambda counts, **how: FFDSLoss(counts, num_groups=2, **how),
    "ffds-unsmoothed": lambda counts, **how: FFDSLoss(counts, num_groups=2, cold_start="unsmoothed", **how),
    "ffds-linear": lambda counts, **how: FFDSLoss(counts, num_groups=1, curve="linear", gamma_min=0.5, **how),
    "ffds-convex": lambda counts, **how: FFDSLoss(counts, num_groups=2, curve="convex", k=0.5, **how),
    "ce": lambda counts, **how: FocalLoss(0.0, **how),
    "focal-below-one": lambda counts, **how: FocalLoss(0.5, **how),
    "focal": lambda counts, **how: FocalLoss(2.0, **how),
    "cb-focal": lambda counts, **how: FocalLoss(1.0, weight=class_balanced_weights(counts), **how),
    "ldam": LDAMLoss,
    "ldam-drw": lambda counts, **how: LDAMLoss(counts, weight=class_balanced_weights(counts), **how),
    "ib": lambda counts, **how: InfluenceBalancedLoss(weight=inverse_frequency_weights(counts), **how),
    "ib-focal": lambda counts, **how: InfluenceBalancedLoss(gamma=1.0, alpha=2.0, epsilon=0.5, **how),
    "weighted-ce": lambda counts, **how: WeightedCrossEntropyLoss(inverse_frequency_weights(counts), **how),
    "logit-adjusted": lambda counts, **how: LogitAdjustedLoss(counts, tau=1.5, **how),
    "vs": lambda counts, **how: VSLoss(counts, gamma=0.2, tau=1.5, **how),
    "ib-focal-as-released": lambda counts, **how: InfluenceBalancedLoss(
        gamma=1.0, weighted_probability=True, weight=inverse_frequency_weights(counts), **how
    ),
    "gcl": lambda counts, **how: GCLLoss(counts, scale=2.0, **how).eval(),
    "gcl-classifier": lambda counts, **how: GCLLoss(counts, margin=0.1, gamma=1.0, **how).eval(),
    "cdb": difficulty_balanced,
    "sigmoid-focal": lambda counts, **how: SigmoidFocalLoss(2.0, **how),
    "sigmoid-cb-focal": lambda counts, **how: SigmoidFocalLoss(weight=class_balanced_weights(counts), **how),
}
STATEFUL = [name for name in LOSSES if name.startswith("ffds")]
EACH_KIND = ["ffds", "cb-focal", "ldam-drw", "ib-focal", "gcl-classifier"]
every_loss = pytest.mark.parametrize("name", LOSSES)


class Batch(NamedTuple):
    logits: Tensor
    target: Tensor
    features: Tensor

    def given_to(self, loss: nn.Module) -> Tensor:
        return loss(*self) if isinstance(loss, InfluenceBalancedLoss) else loss(self.logits, self.target)

    def to(self, dtype: torch.dtype) -> Batch:
        return Batch(self.logits.to(dtype), self.target, self.features.to(dtype))

    def rows(self, which: Any) -> Batch:
        return Batch(*(part[which] for part in self))

    def one_hot(self) -> Batch:
        target = torch.nn.functional.one_hot(self.target, self.logits.shape[1])
        return self._replace(target=target.to(self.logits.dtype))

    def gradient(self, loss: Callable[..., Tensor]) -> Tensor:
        logits = self.logits.detach().requires_grad_()
        value = self._replace(logits=logits).given_to(loss).sum()
        return torch.autograd.grad(value, logits)[0]


def batch(samples: int = 8, classes: int = len(COUNTS), seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        2 * torch.randn(samples, classes, generator=generator),
        torch.randint(classes, (samples,), generator=generator),
        torch.randn(samples, WIDTH, generator=generator),
    )


def mixed(data: Batch, seed: int = 5) -> Batch:
    """With probabilities of the labels as target, some of them 0, as mixup makes them."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.rand(data.logits.shape, generator=generator, dtype=torch.float64)
    q[:, 1] = 0
    return data._replace(target=(q / q.sum(1, keepdim=True)).to(data.logits.dtype))


kinds_of_target = pytest.mark.parametrize("kind", [Batch._replace, mixed], ids=["labels", "probabilities"])


def twin(loss: Any, data: Batch) -> Tensor:
    """The unreduced loss (N,) of labels by the formulas as the papers write them, in float64."""
    logits, target, features = data
    weight = loss.class_weight if isinstance(loss, FFDSLoss) else getattr(loss, "weight", None)
    per_class = [1.0] * logits.shape[1] if weight is None else weight.tolist()
    scale = torch.tensor([per_class[label] for label in target.tolist()], dtype=torch.float64)
    match loss:
        case FFDSLoss():
            means = [loss.group_means[m].item() for m in loss.class_group]
            if loss.cold_start == "cross_entropy" and loss.group_means.isnan().all():
                return naive.cross_entropy(logits, target)
            gamma = loss.gamma.tolist()
            return naive.ffds(logits, target, per_class, gamma, means, loss.k, loss.label_smoothing)
        case LDAMLoss():
            expected = naive.ldam(logits, target, loss.margin.tolist(), loss.scale)
        case InfluenceBalancedLoss():
            setting = (loss.alpha, loss.epsilon, loss.gamma)
            weight = per_class if loss.weighted_probability else None
            expected = naive.influence_balanced(logits, target, features, *setting, weight)
            scale = torch.ones(()) if loss.weighted_probability else scale
        case LogitAdjustedLoss():
            factor = loss.factor.tolist() if isinstance(loss, VSLoss) else [1.0] * len(per_class)
            expected = naive.adjusted(logits, target, factor, loss.adjustment.tolist())
        case GCLLoss():
            expected = naive.gcl(logits, target, loss.scale, loss.margin, loss.gamma)
        case DifficultyBalancedLoss():
            expected = naive.cross_entropy(logits, target)
        case SigmoidFocalLoss():
            expected = naive.sigmoid_focal(logits, target, loss.gamma)
        case FocalLoss():
            expected = naive.focal(logits, target, loss.gamma)
        case WeightedCrossEntropyLoss():
            expected = naive.cross_entropy(logits, target)
    return scale * expected


def end_epoch(loss: nn.Module) -> None:
    if isinstance(loss, FFDSLoss):
        loss.end_epoch()


def warm(name: str, counts: list[int] | Tensor = COUNTS, **how: Any) -> Any:
    """A loss after one epoch and in the middle of the next."""
    loss = LOSSES[name](counts, **how)
    classes = len(counts)
    batch(16, classes, seed=11).given_to(loss)
    end_epoch(loss)
    batch(4, classes, seed=12).given_to(loss)
    return loss


def cold(name: str, counts: list[int] | Tensor = COUNTS, **how: Any) -> Any:
    return LOSSES[name](counts, **how)


every_state = pytest.mark.parametrize(
    ("name", "made"), [*((name, cold) for name in LOSSES), *((name, warm) for name in STATEFUL)]
)


def assert_same_state(one: nn.Module, other: nn.Module, rtol: float = 0.0) -> None:
    assert one.state_dict().keys() == other.state_dict().keys()
    for key, buffer in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[key], buffer, rtol=rtol, atol=0, equal_nan=True)
