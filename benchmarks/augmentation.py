"""Measures augmentation alone, on one thread: whole batches beside one image after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, cast

import torch
from torchvision.transforms import v2

from benchmarks.conventional import PictureDataset, train_transform
from benchmarks.result import Result
from benchmarks.setting import FULL, Setting
from benchmarks.timing import alternate, timed
from ffds.data.transforms import TrainTransform
from ffds.recipes.schema import Data

__all__ = ["augmentation"]

BATCH_SIZE = 128
STEPS = {
    "randaugment": v2.RandAugment(),
    "trivialaugment": v2.TrivialAugmentWide(),
    "autoaugment-imagenet": v2.AutoAugment(),
    "color-jitter": v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
    "random-erasing": v2.RandomErasing(0.25),
}


def augmentation(setting: Setting) -> list[Result]:
    """Crop, flip and normalise a batch; both sides take the same randomly chosen images."""
    data, split = setting.recipe(epochs=1).data, setting.dataset().train
    places = torch.randint(len(split), (BATCH_SIZE,), generator=torch.Generator().manual_seed(0))
    stored, transform = torch.from_numpy(split.images), TrainTransform(data)
    pictures = PictureDataset(split, train_transform(data, split.images.shape[1]))
    with _one_thread():
        times = alternate(
            timed(lambda: transform(stored.index_select(0, places), seed=0), times=20),
            timed(lambda: [pictures[place] for place in places.tolist()], times=2),
            setting.sizes.pairs,
        )
    name = f"augmentation of an image, one thread, {setting.images}, batches of {BATCH_SIZE}"
    sides = (32, 224) if setting.sizes == FULL else (8,)
    policies = [_step(setting, step, side) for side in sides for step in STEPS]
    return [
        Result.of(
            name,
            times.scaled(1e6 / BATCH_SIZE),
            against="torchvision on PIL images",
            unit="µs",
            better="higher",
            target=12,
        ),
        *policies,
    ]


def _step(setting: Setting, name: str, side: int) -> Result:
    """One step and the normalisation of random pictures, beside torchvision on one after the other."""
    data = Data(name="cifar10", augment=(cast(Any, name),))
    stored = torch.randint(256, (BATCH_SIZE, side, side, 3), dtype=torch.uint8)
    transform, theirs = TrainTransform(data), STEPS[name]
    normalise = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(data.mean * 3, data.std * 3)])
    steps = (normalise, theirs) if name == "random-erasing" else (theirs, normalise)
    pictures = list(stored.permute(0, 3, 1, 2).contiguous())
    seeds = count()
    with _one_thread():
        times = alternate(
            timed(lambda: transform(stored, seed=next(seeds)), times=2),
            timed(lambda: [steps[1](steps[0](picture)) for picture in pictures], times=1),
            min(setting.sizes.pairs, 5),
        )
    return Result.of(
        f"{name} of an image, one thread, {side} px, batches of {BATCH_SIZE}",
        times.scaled(1e6 / BATCH_SIZE),
        against="torchvision v2 on one tensor after the other",
        unit="µs",
        better="higher",
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
