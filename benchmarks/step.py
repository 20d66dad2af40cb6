"""A training step beside what the machine can do at most, and evaluation beside the plain one."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.losses import training_step
from benchmarks.result import Result
from benchmarks.setting import SIDE, Setting
from benchmarks.timing import alternate, timed
from ffds.data.batches import EvalBatches
from ffds.models.build import build_model
from ffds.training.evaluate import BATCH_SIZE, evaluate

__all__ = ["step", "useful_flops"]


def step(setting: Setting) -> list[Result]:
    """The step alone as a part of the peak, and images a second of evaluation."""
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
    side = setting.sizes.matrix
    matrix = torch.randn(side, side)
    product = timed(lambda: matrix @ matrix, times=3)
    found = alternate(
        timed(training_step(setting), 3), lambda: product() * flops / (2 * side**3), setting.sizes.pairs
    )
    return Result.of(
        f"training step of {setting.sizes.network}, batch {batch_size}: "
        f"{flops / batch_size / 1e9:.3f} GFLOP an image",
        found.scaled(1e3),
        against=f"the same number of operations as float32 matrix products of side {side}",
        unit="ms",
        better="higher",
        target=0.6,
    )


def _evaluation(setting: Setting) -> Result:
    """Both sides evaluate the same images in memory; ours as training does, with all its measures."""
    recipe, dataset = setting.recipe(epochs=1), setting.dataset()
    fabric = Fabric(accelerator="cpu", devices=1)

    def built() -> nn.Module:
        return build_model(
            recipe.model, head="linear", num_classes=dataset.num_classes, in_channels=3, seed=0
        ).eval()

    plain, ours = built(), built().to(memory_format=torch.channels_last)
    compiled = torch.compile(ours, dynamic=False) if setting.sizes.compiled else ours
    batches = list(EvalBatches(dataset.test, recipe.data, batch_size=BATCH_SIZE, device=torch.device("cpu")))
    contiguous = [(batch.images.contiguous(), batch.labels) for batch in batches]

    def yardstick() -> None:
        with torch.inference_mode():
            sum(int((plain(images).argmax(1) == labels).sum()) for images, labels in contiguous)

    def measured() -> None:
        evaluate(fabric, compiled, dataset.test, recipe.data, dataset.class_counts)

    found = alternate(timed(measured), timed(yardstick), setting.sizes.pairs // 3)
    return Result.of(
        f"evaluation of {len(dataset.test)} images, {setting.sizes.network}",
        found,
        against="an eager NCHW network on the same images",
        unit="s",
        better="higher",
        target=1.8,
    )
