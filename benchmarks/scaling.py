"""How the cost grows with classes, images, the batch and ranks: ``python -m benchmarks.scaling``."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.arguments import add_data_root, add_only, file_of, script_parser, setting_of
from benchmarks.losses import LOSSES, cross_entropy_work, loss_work
from benchmarks.ranks import seconds_per_image
from benchmarks.setting import SIDE, Setting, sgd_settings
from benchmarks.timing import timed
from ffds.data.dataset import Split
from ffds.data.loader import TrainBatches
from ffds.environment import commit, hardware, usable_cores, versions
from ffds.files import write_json
from ffds.models.build import build_model
from ffds.recipes.load import load_recipe
from ffds.reports.formatting import markdown_table
from ffds.training.backend.devices import keep_freed_memory

__all__ = ["TITLES", "Point", "by_batch", "by_classes", "by_images", "by_ranks", "main", "scaling_table"]

BATCH_SIZE = 128
RESULTS = Path(__file__).parents[1] / "results" / "scaling.json"


class Point(NamedTuple):
    """One measurement.

    Attributes:
        part: a key of `TITLES`.
        what: column of that part's table.
        size: row of that table.
        seconds: median.
    """

    part: str
    what: str
    size: int
    seconds: float


TITLES = {
    "classes": (f"forward and backward of a loss, batch {BATCH_SIZE}, ms", 1e3),
    "images": ("order and augmentation of an image from memory, µs", 1e6),
    "batch": ("an image of a training step of ResNet-32, eager, ms", 1e3),
    "ranks": ("an image of a training of ResNet-32, eager, one thread a process, gloo, ms", 1e3),
}
"""Part → what its numbers are, and what turns seconds into them."""


def by_classes(classes: Sequence[int], times: int = 7) -> list[Point]:
    """Forward and backward of each loss on a batch of 128 images."""
    return [
        Point("classes", name, size, _median(work((BATCH_SIZE, size)), times))
        for size in classes
        for name, work in _works().items()
    ]


def by_images(images: Sequence[int], times: int = 3) -> list[Point]:
    """An epoch's batches, shuffled and augmented, from arrays of random 32×32 images; of one image."""
    return [Point("images", "µs an image", size, _median(_epoch(size), times) / size) for size in images]


def by_batch(batch_sizes: Sequence[int], times: int = 7) -> list[Point]:
    """An image of a training step of ResNet-32, eager and channels-last."""
    recipe = load_recipe("cifar100-lt-100").recipe
    model = build_model(recipe.model, head="linear", num_classes=100, in_channels=3, seed=0)
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), fused=True, **sgd_settings(recipe))

    def step(size: int) -> Callable[[], None]:
        images = torch.randn(size, 3, SIDE, SIDE).to(memory_format=torch.channels_last)
        labels = torch.randint(100, (size,))

        def work() -> None:
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

        return work

    return [Point("batch", "ms an image", size, _median(step(size), times) / size) for size in batch_sizes]


def by_ranks(setting: Setting, ranks: Sequence[int], times: int) -> list[Point]:
    """An image of a training on several processes of this machine, one thread each."""
    return [
        Point(
            "ranks",
            "ms an image",
            size,
            statistics.median(seconds_per_image(setting, size) for _ in range(times)),
        )
        for size in ranks
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables and write the numbers."""
    parser = script_parser("benchmarks.scaling", __doc__, RESULTS)
    add_only(parser, TITLES)
    add_data_root(parser)
    options = parser.parse_args(arguments)
    few, times = (1, 1) if options.quick else (None, 3)
    setting = setting_of(options)
    ranks = [size for size in (1, 2, 4, 8) if size <= usable_cores()][:few]
    measures: dict[str, Callable[[], list[Point]]] = {
        "classes": lambda: by_classes((10, 100, 1000, 10_000, 100_000)[:few]),
        "images": lambda: by_images((10_000, 100_000, 1_000_000)[:few]),
        "batch": lambda: by_batch((32, 128, 512)[:few]),
        "ranks": lambda: by_ranks(setting, ranks, times),
    }
    # As every training of ours does: otherwise the pages of the logits would take longer than the losses.
    keep_freed_memory()
    file = file_of(options, RESULTS)
    # What an earlier run measured stays, with its own provenance, until it is measured again.
    found = json.loads(file.read_text(encoding="utf-8")) if options.only and file and file.exists() else {}
    for part in options.only or measures:
        points = measures[part]()
        print(f"{TITLES[part][0]}\n\n{scaling_table(points, part)}\n", flush=True)
        provenance = {"hardware": hardware(), "versions": versions(), "commit": commit()}
        found[part] = provenance | {"points": [point._asdict() for point in points]}
        if file is not None:
            write_json(file, found)


def scaling_table(points: Iterable[Point], part: str) -> str:
    """One part as a Markdown table: a row for each size."""
    of_part = [point for point in points if point.part == part]
    whats = list(dict.fromkeys(point.what for point in of_part))
    rows = [[part, *whats]]
    for at in dict.fromkeys(point.size for point in of_part):
        found = {point.what: point.seconds * TITLES[part][1] for point in of_part if point.size == at}
        rows.append([f"{at:,}", *(f"{found[what]:.3g}" for what in whats)])
    return markdown_table(rows)


def _works() -> dict[str, Callable[[tuple[int, int]], Callable[[], None]]]:
    ours = {name: lambda shape, name=name: loss_work(name, shape) for name in LOSSES}
    return {"cross-entropy": cross_entropy_work, **ours}


def _epoch(images: int) -> Callable[[], None]:
    generator = np.random.default_rng(0)
    pixels = generator.integers(256, size=(images, SIDE, SIDE, 3), dtype=np.uint8)
    split = Split(pixels, generator.integers(10, size=images))
    data = load_recipe("cifar10-lt-100").recipe.data
    batches = TrainBatches(split, data, batch_size=BATCH_SIZE, seed=0, device=torch.device("cpu"))

    def work() -> None:
        for _ in batches.epoch(0):
            pass

    return work


def _median(work: Callable[[], object], times: int) -> float:
    measure = timed(work)
    # The first ones find out where in the heap their tensors fit.
    return statistics.median([measure() for _ in range(2 + times)][2:])


if __name__ == "__main__":
    main()
