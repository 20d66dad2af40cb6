"""Measures training batches from a folder of photographs beside timm's loader."""

from __future__ import annotations

from pathlib import Path

import torch
from timm.data import ImageDataset, create_loader

from benchmarks.laps import Laps, Side
from benchmarks.photos import photo_folder
from benchmarks.result import Result
from benchmarks.setting import Setting
from benchmarks.timing import alternate
from ffds.data.loader import TrainBatches
from ffds.data.open import open_dataset
from ffds.recipes.load import load_recipe
from ffds.recipes.schema import Recipe
from ffds.training.backend.devices import keep_freed_memory

__all__ = ["loading", "our_batches", "timms_batches"]

WORKERS = 2
CPU = torch.device("cpu")


def loading(setting: Setting, pairs: int) -> list[Result]:
    """Decode, resize, crop at random, flip and normalise; nothing is trained.

    The first epoch of each side is not counted: timm starts its workers in it. Ours start in each epoch.

    Args:
        setting: how many photographs.
        pairs: epochs of each side that count.
    """
    count = setting.sizes.photos
    root = photo_folder(count)
    laps = pairs + 1
    with Side(timms_batches, root, laps) as yardstick, Side(our_batches, root, laps) as ours:
        yardstick.lap()
        ours.lap()
        pairs_measured = alternate(ours.lap, yardstick.lap, pairs)
    name = f"training batches of {count:,} JPEGs at 224 pixels, {WORKERS} workers, CPU"
    per_image = pairs_measured.scaled(1e3 / count)
    rates = [count / seconds for seconds in pairs_measured.medians]
    against = "timm's loader"
    return [
        Result.of(f"{name}, an image", per_image, against=against, unit="ms", better="higher", target=0.9),
        Result(name, against, "images/s", *rates),
    ]


def our_batches(laps: Laps, root: Path, epochs: int) -> None:
    """The batches of ``ffds train own-folder`` where the images do not fit in memory."""
    recipe = _recipe(root)
    keep_freed_memory()  # as every training does
    batches = TrainBatches(
        open_dataset(recipe.data).train,
        recipe.data,
        batch_size=recipe.trainer.batch_size,
        seed=recipe.trainer.seed,
        device=CPU,
    )
    laps.start()
    for epoch in range(epochs):
        for _ in batches.epoch(epoch):
            pass
        laps.done()


def timms_batches(laps: Laps, root: Path, epochs: int) -> None:
    """The batches of timm's training script, without its colour jitter, which ours do not have."""
    recipe = _recipe(root)
    loader = create_loader(
        ImageDataset(str(root / "train")),
        input_size=recipe.data.image_size,
        batch_size=recipe.trainer.batch_size,
        is_training=True,
        color_jitter=None,
        num_workers=WORKERS,
        device=CPU,
    )
    laps.start()
    for _ in range(epochs):
        for _ in loader:
            pass
        laps.done()


def _recipe(root: Path) -> Recipe:
    settings = [f"data.root={root}", "data.in_memory=false", f"data.workers={WORKERS}"]
    return load_recipe("own-folder", settings, method="ce").recipe
