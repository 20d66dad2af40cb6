"""Forward and backward of each loss beside torch's cross-entropy, and beside a training step."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.result import Result
from benchmarks.setting import SIDE, Setting
from benchmarks.timing import alternate, timed
from ffds.data import long_tail_counts
from ffds.data.augment import TrainTransform
from ffds.losses import FFDSLoss, FocalLoss, InfluenceBalancedLoss, LDAMLoss, class_balanced_weights
from ffds.models.build import build_model

__all__ = ["cross_entropy_work", "ffds_work", "losses"]

FEATURES = 64
Work = Callable[[], None]


def losses(setting: Setting) -> list[Result]:
    """FFDS and the others with very many classes and with few, and FFDS as a share of a step."""
    sizes = setting.sizes
    results = [_against_cross_entropy(name, sizes.wide, 1, sizes.pairs) for name in _LOSSES]
    results += [_against_cross_entropy(name, sizes.narrow, 50, sizes.pairs) for name in _LOSSES]
    return [*results, _share_of_step(setting)]


def ffds_work(shape: tuple[int, int]) -> Work:
    """Forward and backward of FFDS in the midst of training: group means known, new ones gathered."""
    loss = FFDSLoss(_counts(shape[1]))
    loss.observe(*_logits(shape))
    loss.end_epoch()
    return _work(loss, *_logits(shape))


def cross_entropy_work(shape: tuple[int, int]) -> Work:
    """Forward and backward of `torch.nn.functional.cross_entropy`."""
    return _work(F.cross_entropy, *_logits(shape))


def _focal_work(shape: tuple[int, int]) -> Work:
    return _work(FocalLoss(weight=class_balanced_weights(_counts(shape[1]))), *_logits(shape))


def _ldam_work(shape: tuple[int, int]) -> Work:
    return _work(LDAMLoss(_counts(shape[1])), *_logits(shape))


def _ib_work(shape: tuple[int, int]) -> Work:
    features = torch.randn(shape[0], FEATURES).relu_().requires_grad_()
    return _work(InfluenceBalancedLoss(), *_logits(shape), features)


_LOSSES: dict[str, Callable[[tuple[int, int]], Work]] = {
    "FFDS": ffds_work,
    "CB-FL": _focal_work,
    "LDAM": _ldam_work,
    "IB": _ib_work,
}
WIDE_TARGET = {"FFDS": 1.6}


def _against_cross_entropy(name: str, shape: tuple[int, int], times: int, pairs: int) -> Result:
    found = alternate(timed(_LOSSES[name](shape), times), timed(cross_entropy_work(shape), times), pairs)
    return Result.of(
        f"{name} {shape}, forward and backward",
        found.scaled(1e3),
        against="F.cross_entropy",
        unit="ms",
        better="lower",
        target=WIDE_TARGET.get(name) if times == 1 else None,
    )


def _share_of_step(setting: Setting) -> Result:
    shape = setting.sizes.narrow
    found = alternate(timed(ffds_work(shape), 50), timed(_step(setting), 2), setting.sizes.pairs)
    return Result.of(
        f"FFDS {shape}, forward and backward",
        found.scaled(1e3),
        against=f"a training step of {setting.sizes.network}",
        unit="ms",
        better="lower",
        target=0.01,
    )


def _step(setting: Setting) -> Work:
    """Our training step: augmentation, network as the epoch benchmark runs it, FFDS, optimizer."""
    recipe, (size, classes) = setting.recipe(epochs=1), setting.sizes.narrow
    model = build_model(recipe.model, head="linear", num_classes=classes, in_channels=3, seed=0)
    model.to(memory_format=torch.channels_last)
    forward = torch.compile(model, dynamic=False) if setting.sizes.compiled else model
    optimizer = torch.optim.SGD(model.parameters(), **recipe.optimizer.model_dump())
    loss, transform = FFDSLoss(_counts(classes)), TrainTransform(recipe.data)
    images = torch.randint(256, (size, SIDE, SIDE, 3), dtype=torch.uint8)
    target = torch.randint(classes, (size,))

    def step() -> None:
        loss(forward(transform(images, seed=0)), target).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _work(loss: nn.Module | Callable[..., Tensor], logits: Tensor, target: Tensor, *extra: Tensor) -> Work:
    def work() -> None:
        for tensor in (logits, *extra):
            tensor.grad = None
        loss(logits, target, *extra).backward()

    return work


def _logits(shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=generator).requires_grad_()
    return logits, torch.randint(shape[1], (shape[0],), generator=generator)


def _counts(classes: int) -> list[int]:
    return long_tail_counts(1000, classes, 100)
