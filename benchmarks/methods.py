"""A training step of each method beside one of plain cross-entropy: ``python -m benchmarks.methods``.

Real trainings of ResNet-32 with random images, as many classes and as large as those of CIFAR-100-LT. Each
method is trained in turns with cross-entropy, so that a change of the machine's pace meets both. Evaluation
and checkpoints are not counted. The file it writes belongs to the package: `ffds methods` shows it.
"""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.arguments import add_only, file_of, script_parser
from benchmarks.timing import alternate
from ffds.data import long_tail_counts
from ffds.data.dataset import Dataset, Split
from ffds.environment import commit, hardware, versions
from ffds.files import write_json
from ffds.methods import registry
from ffds.methods.facts import COSTS
from ffds.recipes.load import load_recipe
from ffds.training.train import train_recipe

__all__ = ["Sizes", "main", "seconds_per_image"]

RESULTS = Path(registry.__file__).with_name(COSTS)
RECIPE, CLASSES, SIDE = "cifar100-lt-100", 100, 32
VALIDATION = 2
"""Images of a class that are held out for methods that ask for them."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured: network, images of the largest class, batch size, trainings of each side."""

    network: str = "resnet32"
    largest: int = 50
    batch: int = 128
    pairs: int = 3


QUICK = Sizes("resnet8", largest=5, batch=32, pairs=1)


def seconds_per_image(method: str, sizes: Sizes) -> float:
    """Of the steps of the phase that takes longest, in a training of four epochs and those a method adds."""
    held = "validation images" in registry.METHODS[method].needs
    settings = {
        "model.name": sizes.network,
        "schedule.epochs": 4,
        "trainer.batch_size": sizes.batch,
        **({"data.validation": 0.1} if held else {}),
    }
    recipe = load_recipe(RECIPE, [f"{key}={value}" for key, value in settings.items()], method=method).recipe
    with tempfile.TemporaryDirectory() as out:
        run = train_recipe(recipe, out=Path(out), dataset=_images(sizes, held=held), shown=False)
        best: dict[str, float] = {}
        for line in run.metrics:
            rate = line["images_per_second"] or 0.0
            best[line["phase"]] = max(rate, best.get(line["phase"], 0.0))
        return max(1 / rate for rate in best.values() if rate)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the ratios and write them with their provenance."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    parser = script_parser("benchmarks.methods", __doc__, RESULTS)
    add_only(parser, registry.METHODS)
    options = parser.parse_args(given)
    sizes = QUICK if options.quick else Sizes()
    file = file_of(options, RESULTS)
    found = _earlier(file) if options.only else {}
    seconds_per_image("ce", replace(sizes, largest=5))  # the first training of a process is slower
    for method in options.only or registry.METHODS:
        pairs = alternate(
            lambda method=method: seconds_per_image(method, sizes),  # type: ignore[misc]
            lambda: seconds_per_image("ce", sizes),
            sizes.pairs,
        )
        ours, theirs = pairs.medians
        found[method] = round(ours / theirs, 3)
        print(f"{method}: {1 / (ours * sizes.batch):.3g} steps a second, {found[method]:.2f} beside ce")
        if file is not None:
            write_json(file, _provenance(given) | {"step_beside_ce": found})


def _earlier(file: Path | None) -> dict[str, float]:
    """What was measured before on this machine; ratios of another one are not kept beside its own."""
    if file is None or not file.exists():
        return {}
    content = json.loads(file.read_text(encoding="utf-8"))
    return dict(content["step_beside_ce"]) if content["hardware"] == hardware() else {}


def _provenance(arguments: Sequence[str]) -> dict[str, Any]:
    command = shlex.join(["python", "-m", "benchmarks.methods", *arguments])
    return {
        "hardware": hardware(),
        "torch": versions()["torch"],
        "commit": commit(),
        "command": command,
    }


def _images(sizes: Sizes, *, held: bool) -> Dataset:
    counts = long_tail_counts(sizes.largest, CLASSES, min(100, sizes.largest / 2))
    labels = np.repeat(np.arange(CLASSES), counts)
    few = np.repeat(np.arange(CLASSES), VALIDATION)
    names = tuple(f"class {c}" for c in range(CLASSES))
    validation = _random(few) if held else None
    return Dataset("synthetic", "random pixels", names, _random(labels), _random(few), validation)


def _random(labels: np.ndarray) -> Split:
    generator = np.random.default_rng(0)
    shape = (len(labels), SIDE, SIDE, 3)
    return Split(generator.integers(256, size=shape, dtype=np.uint8), labels.astype(np.int64))


if __name__ == "__main__":
    main()
