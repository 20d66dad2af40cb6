"""Whole epochs, training and evaluation: the library's own beside the conventional loop's."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import conventional
from benchmarks.laps import Laps, Side
from benchmarks.result import Result
from benchmarks.setting import RECIPE, Setting, sgd_settings
from benchmarks.timing import Pairs, alternate
from ffds.environment import environment
from ffds.jobs.plan import plan
from ffds.models.build import build_model
from ffds.paper.reference import METHOD_TITLES
from ffds.recipes.load import load_recipe
from ffds.run_directory import Run
from ffds.training.backend.devices import launch_fabric
from ffds.training.evaluate import BATCH_SIZE
from ffds.training.loop import TrainingLoop
from ffds.training.phases import phases
from ffds.training.signals import StopSignals
from ffds.training.trajectory import Trajectory

__all__ = ["conventional_epochs", "epoch", "our_epochs", "precision"]

AGAINST = "the conventional loop"
THINNED = 10
"""`trainer.eval_every` of the table computed once more: a cell needs the last epoch alone."""


def epoch(setting: Setting, pairs: int) -> list[Result]:
    """Epoch, compilation and memory of a training process.

    Our first epoch is not counted, because the network is compiled in it; the yardstick compiles nothing.

    Args:
        setting: images and network.
        pairs: epochs of each side that count.
    """
    with (
        Side(conventional_epochs, setting, pairs) as yardstick,
        Side(our_epochs, setting, pairs + 1) as ours,
    ):
        first = ours.lap()
        training: list[float] = []

        def our_lap() -> float:
            seconds = ours.lap()
            training.append(ours.part)
            return seconds

        found = alternate(our_lap, yardstick.lap, pairs)
    memory = Pairs((ours.peak_memory,), (yardstick.peak_memory,))
    results = [
        Result.of(
            f"epoch with evaluation, {_title(setting)}",
            found,
            against=AGAINST,
            unit="s",
            better="higher",
            target=1.75,
        ),
        *_tables(setting, found, training),
        Result.of(
            "peak resident memory of that process", memory, against=AGAINST, unit="MiB", better="lower"
        ),
    ]
    if setting.sizes.compiled:
        seconds = first - found.medians[0]
        results.append(Result("what compilation adds to the first epoch of a run", "", "s", seconds))
    return results


def precision(setting: Setting, pairs: int) -> list[Result]:
    """The same epoch in bfloat16, which has other results, beside float32; both compiled, first not counted.

    Args:
        setting: images and network.
        pairs: epochs of each side that count.
    """
    with (
        Side(our_epochs, setting, pairs + 1, "32") as full,
        Side(our_epochs, setting, pairs + 1, "bf16") as half,
    ):
        full.lap()
        half.lap()
        found = alternate(half.lap, full.lap, pairs)
    return [
        Result.of(
            f"epoch with evaluation, trainer.precision=bf16, {_title(setting)}",
            found,
            against="the same in float32",
            unit="s",
            better="higher",
        )
    ]


def _title(setting: Setting) -> str:
    batch_size = setting.recipe(epochs=1).trainer.batch_size
    return f"{setting.images}, {setting.sizes.network}, batch {batch_size}"


def _tables(setting: Setting, found: Pairs, training: Sequence[float]) -> list[Result]:
    """Computed from the epochs measured: ours trains once what several methods have in common."""
    recipes = [load_recipe(RECIPE, method=method).recipe for method in METHOD_TITLES]
    with tempfile.TemporaryDirectory() as directory:
        dataset = setting.dataset()
        planned = plan(recipes, directory, lambda data: dataset).runs
    ours, theirs = (sum(one.to_train for one in planned), sum(one.recipe.schedule.epochs for one in planned))
    thinned = [
        (whole + (THINNED - 1) * alone) / THINNED for whole, alone in zip(found.ours, training, strict=True)
    ]
    return [
        Result.of(
            f"Table 1a for one setting, {len(recipes)} methods: {ours} of {theirs} epochs, {scored}computed",
            Pairs(
                tuple(ours * seconds / 3600 for seconds in epochs),
                tuple(theirs * seconds / 3600 for seconds in found.yardstick),
            ),
            against=AGAINST,
            unit="h",
            better="higher",
            target=2.6,
        )
        for epochs, scored in ((found.ours, ""), (thinned, f"trainer.eval_every={THINNED}, "))
    ]


def our_epochs(laps: Laps, setting: Setting, epochs: int, precision: str = "32") -> None:
    """Train as ``ffds train`` does: batches in memory, channels-last, compiled, metrics, checkpoints."""
    with tempfile.TemporaryDirectory() as directory:
        # Compiled as on a fresh machine, not taken from the cache of an earlier run.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{directory}/compiled"
        recipe, dataset = setting.recipe(epochs, precision), setting.dataset()
        run = LapRun(
            Path(directory) / "run",
            after_epoch=lambda entry: laps.done(len(dataset.train) / entry["images_per_second"]),
        )
        with run.locked():
            run.start(recipe, environment())
            plan = phases(recipe, dataset.class_counts)
            trajectory = Trajectory.of(recipe, dataset, plan, directory)
            loop = TrainingLoop(
                launch_fabric(recipe.trainer),
                recipe,
                dataset,
                plan,
                run,
                trajectory,
                StopSignals(),
                shown=False,
            )
            laps.start()
            loop.train()


def conventional_epochs(laps: Laps, setting: Setting, epochs: int) -> None:
    """Train the same network from the same weights with the same loss, rates and batch sizes."""
    recipe, dataset = setting.recipe(epochs), setting.dataset()
    data, batch_size = recipe.data, recipe.trainer.batch_size
    (phase,) = phases(recipe, dataset.class_counts)
    model = build_model(
        recipe.model,
        head=recipe.head,
        num_classes=dataset.num_classes,
        in_channels=3,
        seed=recipe.trainer.seed,
    )
    optimizer = torch.optim.SGD(model.parameters(), **sgd_settings(recipe))
    side = dataset.train.images.shape[1]
    train = conventional.PictureDataset(dataset.train, conventional.train_transform(data, side))
    test = conventional.PictureDataset(dataset.test, conventional.eval_transform(data))
    train_batches = conventional.loader(train, batch_size=batch_size, shuffle=True)
    test_batches = conventional.loader(test, batch_size=BATCH_SIZE, shuffle=False)
    laps.start()
    for factor in phase.lr_factors:
        for group in optimizer.param_groups:
            group["lr"] = recipe.optimizer.lr * factor
        conventional.train_epoch(model, train_batches, phase.stage.loss, optimizer)
        conventional.evaluate(model, test_batches)
        laps.done()


@dataclass(frozen=True, kw_only=True)
class LapRun(Run):
    """A run directory that tells of each epoch; the checkpoint of an epoch falls into the next lap."""

    after_epoch: Callable[[dict[str, Any]], None]

    def add_epoch(self, entry: dict[str, Any]) -> None:
        """As `Run.add_epoch`."""
        super().add_epoch(entry)
        self.after_epoch(entry)
