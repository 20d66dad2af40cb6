"""On what and how large: the full measurement, or a tiny one to try the script."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ffds.data import long_tail_counts
from ffds.data.dataset import Dataset, Split
from ffds.data.open import open_dataset, open_source
from ffds.errors import InputError
from ffds.recipes.load import load_recipe
from ffds.recipes.schema import Recipe

__all__ = ["FULL", "QUICK", "RECIPE", "Setting", "Sizes", "found_root", "sgd_settings"]

RECIPE = "cifar10-lt-100"
CLASSES, FACTOR, SIDE = 10, 100, 32


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        network: model of the recipe.
        compiled: whether ours is compiled.
        max_count: images of the largest class; of synthetic images only.
        test_images: images of the test set; of synthetic images only.
        wide: (N, C) of logits with many classes.
        narrow: (N, C) of the logits of CIFAR-100.
        matrix: side of the matrices whose product tells the peak of the machine.
        photos: JPEGs of a folder.
        pairs: measurements of each side where one takes less than a second.
    """

    network: str = "resnet32"
    compiled: bool = True
    max_count: int = 5000
    test_images: int = 10_000
    wide: tuple[tuple[int, int], ...] = ((1024, 1000), (1024, 8142))
    narrow: tuple[int, int] = (128, 100)
    matrix: int = 2048
    photos: int = 20_000
    pairs: int = 15


FULL = Sizes()
QUICK = Sizes(
    network="resnet20",
    compiled=False,
    max_count=100,
    test_images=100,
    wide=((64, 1000),),
    narrow=(32, 20),
    matrix=256,
    photos=40,
    pairs=5,
)


@dataclass(frozen=True)
class Setting:
    """One run of the benchmarks.

    Attributes:
        sizes: how much is measured.
        root: ``data.root`` of CIFAR-10; None: random pixels, which cost the same.
    """

    sizes: Sizes
    root: str | None

    @property
    def images(self) -> str:
        """The images in words, part of a benchmark's name."""
        if self.root:
            return "CIFAR-10-LT 100"
        return (
            "synthetic images, as many as CIFAR-10-LT 100" if self.sizes == FULL else "a few synthetic images"
        )

    def recipe(self, epochs: int, precision: str = "32") -> Recipe:
        """The shipped recipe on the CPU, with cross-entropy."""
        settings = {
            "data.root": self.root,
            "model.name": self.sizes.network,
            "schedule.epochs": epochs,
            "trainer.accelerator": "cpu",
            "trainer.compile": self.sizes.compiled,
            "trainer.precision": precision,
        }
        texts = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
        return load_recipe(RECIPE, texts, method="ce").recipe

    def dataset(self) -> Dataset:
        """The images, in memory."""
        if self.root:
            return open_dataset(self.recipe(epochs=1).data)
        counts = long_tail_counts(self.sizes.max_count, CLASSES, FACTOR)
        train = np.repeat(np.arange(CLASSES), counts)
        names = tuple(f"class {c}" for c in range(CLASSES))
        test = np.arange(self.sizes.test_images) % CLASSES
        return Dataset("synthetic", "random pixels", names, _random(train), _random(test))


def found_root(directory: Path) -> str | None:
    """Where CIFAR-10 lies below a directory; None, and a word why, where it does not.

    Args:
        directory: one that holds the pack ``cifar10-if10``, or the original files.
    """
    pack = directory / "cifar10-if10"
    root = str(pack if pack.is_dir() else directory)
    try:
        open_source(Setting(FULL, root).recipe(epochs=1).data)
    except InputError as error:
        print(f"no CIFAR-10 below {directory}, so with synthetic images of the same sizes: {error}")
        return None
    return root


def _random(labels: np.ndarray) -> Split:
    generator = np.random.default_rng(0)
    shape = (len(labels), SIDE, SIDE, 3)
    return Split(generator.integers(256, size=shape, dtype=np.uint8), labels.astype(np.int64))


def sgd_settings(recipe: Recipe) -> dict[str, Any]:
    """What `torch.optim.SGD` takes of a recipe's optimizer."""
    return recipe.optimizer.model_dump(include={"lr", "momentum", "weight_decay", "nesterov"})
