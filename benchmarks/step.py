"""A training step beside what the machine can do at most, and evaluation beside the plain one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.laps import Laps, Side
from benchmarks.losses import training_step
from benchmarks.result import Result
from benchmarks.setting import SIDE, Setting
from benchmarks.timing import alternate, timed
from ffds.data.dataset import Dataset
from ffds.data.loader import EvalBatches
from ffds.models.build import build_model
from ffds.training.backend.devices import compile_model, launch_fabric
from ffds.training.evaluate import BATCH_SIZE, eval_batches, evaluate

__all__ = ["conventional_evaluations", "our_evaluations", "our_steps", "step", "useful_flops"]

STEPS = 3
"""Training steps in one measurement."""


def step(setting: Setting) -> list[Result]:
    """The step alone as a part of the peak, and evaluation beside the plain one.

    Each side that trains or evaluates has a process of its own: a training of ours keeps its freed memory,
    which would help a yardstick in the same process too.
    """
    return [_part_of_peak(setting), _evaluation(setting)]


def useful_flops(model: nn.Module, images: Tensor) -> int:
    """Multiplications and additions that forward and backward cannot do without, batch norm left out.

    Args:
        model: images → logits.
        images: one batch.
    """
    counter = FlopCounterMode(display=False)
    with counter:
        model(images).sum().backward()
    return int(counter.get_total_flops())


def _part_of_peak(setting: Setting) -> Result:
    """Ours is the time of a step, the yardstick the time its products would take at the peak."""
    batch_size, classes = setting.sizes.narrow
    model = build_model(
        setting.recipe(epochs=1).model, head="linear", num_classes=classes, in_channels=3, seed=0
    )
    flops = useful_flops(model, torch.zeros(batch_size, 3, SIDE, SIDE))
    side, pairs = setting.sizes.matrix, setting.sizes.pairs
    matrix, product = torch.randn(side, side), torch.empty(side, side)
    multiplied = timed(lambda: torch.mm(matrix, matrix, out=product), times=3)
    with Side(our_steps, setting, pairs) as ours:
        found = alternate(lambda: ours.lap() / STEPS, lambda: multiplied() * flops / (2 * side**3), pairs)
    return Result.of(
        f"training step of {setting.sizes.network}, batch {batch_size}: "
        f"{flops / batch_size / 1e9:.3f} GFLOP an image",
        found.scaled(1e3),
        against=f"the same number of operations as float32 matrix products of side {side}",
        unit="ms",
        better="higher",
        target=0.6,
    )


def our_steps(laps: Laps, setting: Setting, times: int) -> None:
    """Training steps in a process that `ffds train` would set up the same way; `STEPS` make a lap."""
    launch_fabric(setting.recipe(epochs=1).trainer)
    step = training_step(setting)

    def work() -> None:
        for _ in range(STEPS):
            step()

    _laps(laps, work, times)


def _evaluation(setting: Setting) -> Result:
    """Both sides evaluate the same images in memory; ours as training does, with all its measures."""
    pairs = setting.sizes.pairs // 3
    with (
        Side(conventional_evaluations, setting, pairs) as yardstick,
        Side(our_evaluations, setting, pairs) as ours,
    ):
        found = alternate(ours.lap, yardstick.lap, pairs)
    return Result.of(
        f"evaluation of {len(setting.dataset().test)} images, {setting.sizes.network}",
        found,
        against="an eager NCHW network on the same images",
        unit="s",
        better="higher",
        target=1.8,
    )


def our_evaluations(laps: Laps, setting: Setting, times: int) -> None:
    """Evaluate the test images as a training does after an epoch; each is a lap."""
    recipe, dataset = setting.recipe(epochs=1), setting.dataset()
    fabric = launch_fabric(recipe.trainer)
    batches = eval_batches(fabric, dataset.test, recipe.data)
    model = _network(setting, dataset).to(memory_format=torch.channels_last)
    forward = compile_model(model, torch.device("cpu")) if setting.sizes.compiled else model

    def work() -> None:
        evaluate(fabric, forward, batches, dataset.class_counts, recipe.data.cut)

    _laps(laps, work, times)


def conventional_evaluations(laps: Laps, setting: Setting, times: int) -> None:
    """Count the correct answers to the test images, which are normalised already; each time is a lap."""
    recipe, dataset = setting.recipe(epochs=1), setting.dataset()
    model = _network(setting, dataset)
    batches = [
        (batch.images.contiguous(), batch.labels)
        for batch in EvalBatches(dataset.test, recipe.data, batch_size=BATCH_SIZE, device=torch.device("cpu"))
    ]

    def work() -> None:
        with torch.inference_mode():
            sum(int((model(images).argmax(1) == labels).sum()) for images, labels in batches)

    _laps(laps, work, times)


def _network(setting: Setting, dataset: Dataset) -> nn.Module:
    model = setting.recipe(epochs=1).model
    return build_model(model, head="linear", num_classes=dataset.num_classes, in_channels=3, seed=0).eval()


def _laps(laps: Laps, work: Callable[[], None], times: int) -> None:
    work()
    laps.start()
    for _ in range(times):
        work()
        laps.done()
