"""Measures augmentation alone, on one thread: whole batches beside one image after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from benchmarks.conventional import PictureDataset, train_transform
from benchmarks.result import Result
from benchmarks.setting import Setting
from benchmarks.timing import alternate, timed
from ffds.data.transforms import TrainTransform

__all__ = ["augmentation"]

BATCH_SIZE = 128


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
    return [
        Result.of(
            name,
            times.scaled(1e6 / BATCH_SIZE),
            against="torchvision on PIL images",
            unit="µs",
            better="higher",
            target=12,
        )
    ]


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
