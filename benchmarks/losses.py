"""Forward and backward of each loss beside torch's cross-entropy, and beside a training step."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.result import Result
from benchmarks.setting import SIDE, Setting, sgd_settings
from benchmarks.timing import alternate, timed
from ffds.data import long_tail_counts
from ffds.data.transforms import TrainTransform
from ffds.losses import FFDSLoss, FocalLoss, InfluenceBalancedLoss, LDAMLoss, class_balanced_weights
from ffds.models.build import build_model
from ffds.training.backend.devices import compile_model, keep_freed_memory

__all__ = ["LOSSES", "Work", "cross_entropy_work", "loss_work", "losses", "training_step"]

FEATURES = 64
Work = Callable[[], None]


def losses(setting: Setting) -> list[Result]:
    """Every loss with very many classes and with few, eager and compiled; and as a share of a step.

    Both sides keep their freed memory, as every training of ours does: otherwise the pages that the system
    clears for tens of MiB of logits would take longer than the arithmetic.
    """
    keep_freed_memory()
    sizes = setting.sizes
    results = [
        _against_cross_entropy(name, shape, setting, compiled=compiled)
        for shape in sizes.wide
        for name in LOSSES
        for compiled in ((False, True) if sizes.compiled else (False,))
    ]
    results += [_against_cross_entropy(name, sizes.narrow, setting) for name in LOSSES]
    return [*results, *_shares_of_step(setting)]


def cross_entropy_work(shape: tuple[int, int], device: str = "cpu") -> Work:
    """Forward and backward of `torch.nn.functional.cross_entropy`."""
    return _work(F.cross_entropy, *_logits(shape, device))


def loss_work(name: str, shape: tuple[int, int], *, compiled: bool = False, device: str = "cpu") -> Work:
    """Forward and backward of one of ours, in the midst of training."""
    loss = LOSSES[name](_counts(shape[1])).to(device)
    # LDAM's logits are cosines. On larger ones its scale makes probabilities that are too small for normal
    # numbers, with which a CPU is slow.
    logits, target = _logits(shape, device, largest=1.0 if name == "LDAM" else torch.inf)
    if isinstance(loss, FFDSLoss):
        # From here on the group means are known, and new ones are gathered.
        loss.observe(logits, target)
        loss.end_epoch()
    extra = (torch.randn(shape[0], FEATURES).relu_().to(device).requires_grad_(),) if name == "IB" else ()
    called = torch.compile(loss, dynamic=False, fullgraph=True) if compiled else loss
    return _work(called, logits, target, *extra)


LOSSES: dict[str, Callable[[list[int]], nn.Module]] = {
    "FFDS": FFDSLoss,
    "CB-FL": lambda counts: FocalLoss(weight=class_balanced_weights(counts)),
    "LDAM": LDAMLoss,
    "IB": lambda counts: InfluenceBalancedLoss(),
}


def _against_cross_entropy(
    name: str, shape: tuple[int, int], setting: Setting, *, compiled: bool = False
) -> Result:
    # Some 30 ms at least: of 5 ms, single pairs told anything from half to three times.
    times = max(5, 40_000 // shape[1])
    ours = timed(loss_work(name, shape, compiled=compiled), times)
    found = alternate(ours, timed(cross_entropy_work(shape), times), setting.sizes.pairs)
    wide = shape in setting.sizes.wide
    return Result.of(
        f"{name} {shape}, forward and backward{', compiled' if compiled else ''}",
        found.scaled(1e3),
        against="F.cross_entropy",
        unit="ms",
        better="lower",
        target=(1.4 if compiled else 2.5) if wide else None,
    )


def _shares_of_step(setting: Setting) -> list[Result]:
    shape, step = setting.sizes.narrow, timed(training_step(setting), 2)
    return [
        Result.of(
            f"{name} {shape}, forward and backward",
            alternate(timed(loss_work(name, shape), 50), step, setting.sizes.pairs).scaled(1e3),
            against=f"a training step of {setting.sizes.network}",
            unit="ms",
            better="lower",
            target=0.01,
        )
        for name in LOSSES
    ]


def training_step(setting: Setting) -> Work:
    """Our training step: augmentation, network as the epoch benchmark runs it, FFDS, optimizer."""
    recipe, (size, classes) = setting.recipe(epochs=1), setting.sizes.narrow
    model = build_model(recipe.model, head="linear", num_classes=classes, in_channels=3, seed=0)
    model.to(memory_format=torch.channels_last)
    forward = compile_model(model, torch.device("cpu")) if setting.sizes.compiled else model
    optimizer = torch.optim.SGD(model.parameters(), fused=True, **sgd_settings(recipe))
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


def _logits(shape: tuple[int, int], device: str, largest: float = torch.inf) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=generator).clamp_(-largest, largest).to(device).requires_grad_()
    return logits, torch.randint(shape[1], (shape[0],), generator=generator).to(device)


def _counts(classes: int) -> list[int]:
    return long_tail_counts(1000, classes, 100)
