"""Trainings of a fraction of a second: 95 real digits, three steps an epoch, a poll a step and test batch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from signal import SIGTERM
from typing import Any, Self, cast

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ffds.data.dataset import Dataset, Split
from ffds.data.open import open_dataset
from ffds.losses import base as loss_protocols
from ffds.methods.base import Method, Stage
from ffds.methods.registry import METHODS
from ffds.methods.reweighting import Custom
from ffds.recipes.load import load_recipe
from ffds.recipes.schema import Data, Recipe
from ffds.run_directory import Run
from ffds.training.backend.devices import launch_fabric
from ffds.training.loop import TrainingLoop
from ffds.training.phases import phases
from ffds.training.step import TrainStep
from ffds.training.train import train_recipe
from ffds.training.trajectory import Trajectory

COUNTS = [24, 18, 14, 11, 8, 6, 5, 4, 3, 2]
STEPS = 3
POLLS = STEPS + 1
EPOCHS = 4
SETTINGS = (f"schedule.epochs={EPOCHS}", "trainer.batch_size=32", "model.name=resnet8")
NEEDED = {
    method: ("data.validation=0.3",)
    for method, settings in METHODS.items()
    if "validation images" in settings.needs
}
"""Settings without which a method is not trained on these images."""
FEW = {"smote": ("method.neighbors=1",)}
"""What methods need whose defaults want more than two images of the rarest class."""


@cache
def _digits() -> Dataset:
    return open_dataset(Data(name="digits", imbalance_factor=20.0, validation=0.3))


def _first(split: Split, counts: Sequence[int]) -> Split:
    rows = [np.flatnonzero(split.labels == c)[:count] for c, count in enumerate(counts)]
    return split.take(np.concatenate(rows))


def dataset(counts: Sequence[int] = COUNTS, *, validation: bool = False, of_test: int = 4) -> Dataset:
    """The first digits of each class; `of_test` of each class for the test."""
    everything = _digits()
    held = everything.validation
    assert held is not None
    return replace(
        everything,
        class_names=everything.class_names[: len(counts)],
        train=_first(everything.train, counts),
        test=_first(everything.test, [of_test] * len(counts)),
        validation=_first(held, [2] * len(counts)) if validation else None,
    )


def images_for(one: Recipe) -> Dataset:
    """The images, with some held out for a method that asks for them."""
    return dataset(validation=one.method.name in NEEDED)


def use(patch: pytest.MonkeyPatch, images: Dataset | None = None) -> None:
    """Have `train`, `train_all` and `evaluate_run` open these images whatever the recipe names."""
    opened = images or dataset()
    for module in ("training.train", "inference.load", "inference.fitting", "jobs.plan"):
        patch.setattr(f"ffds.{module}.open_dataset", lambda data: opened)


def recipe(*overrides: str, method: str = "d-ffds") -> Recipe:
    needed = (*NEEDED.get(method, ()), *FEW.get(method, ()))
    return load_recipe("digits", [*SETTINGS, *needed, *overrides], method=method).recipe


def kind(method: str) -> tuple[object, ...]:
    """What training with a method asks of the loop: methods of one kind differ by a formula alone.

    What `Method` says of its class beside the source, and of each stage all fields beside its name, whether
    its loss is saved in checkpoints, and which protocols of `ffds.losses.base` it follows.
    """
    one = recipe(method=method)
    stages = (phase.stage for phase in phases(one, COUNTS))
    facts = sorted(Method.__class_vars__ - {"source", "published"})
    own = (getattr(METHODS[method], fact) for fact in facts)
    return (*own, one.method.synthetic, *map(_asks, stages))


def _asks(stage: Stage) -> tuple[object, ...]:
    own = {field.name: getattr(stage, field.name) for field in fields(stage)}
    loss, _ = own.pop("loss"), own.pop("name")
    shown = [type(value).__name__ if isinstance(value, nn.Module) else repr(value) for value in own.values()]
    protocols = [one for one in vars(loss_protocols).values() if getattr(one, "_is_runtime_protocol", False)]
    return (*shown, bool(loss.state_dict()), *(isinstance(loss, one) for one in protocols))


def own(*overrides: str) -> Recipe:
    """The recipe of a loss of the test's own."""
    return recipe(*overrides, method="ce").model_copy(update={"method": Custom(loss="own")})


class Scaled(nn.Module):
    """Cross-entropy with a learnt scale and learnt biases, and a buffer that counts calls."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.tensor(5.0)), nn.Parameter(torch.zeros(len(COUNTS)))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        return nn.functional.cross_entropy(logits * self.scale + self.bias, target)


class StopAfter:
    """Stands for `StopSignals`: a request to stop, seen at the poll with this number."""

    def __init__(self, polls: float) -> None:
        self.left = polls

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    @property
    def requested(self) -> Any:
        self.left -= 1
        return SIGTERM if self.left <= 0 else None


def stop_after(patch: pytest.MonkeyPatch, polls: float) -> None:
    """Stop `train`, which takes no stop signals, at the poll with this number."""
    patch.setattr("ffds.training.train.StopSignals", lambda: StopAfter(polls))


def steps_taken(patch: pytest.MonkeyPatch) -> list[int]:
    """The epoch of every training step from now on, as they are taken."""
    taken: list[int] = []
    step = TrainStep.__call__

    def counted(self: TrainStep, *given: Any, **how: Any) -> None:
        taken.append(self.state.reached.epoch)
        step(self, *given, **how)

    patch.setattr(TrainStep, "__call__", counted)
    return taken


def train(
    one: Recipe, out: Path, *, polls: float = float("inf"), images: Dataset | None = None, **given: Any
) -> Run:
    """`train_recipe` on these images; a request to stop comes at the poll with that number."""
    stop: Any = StopAfter(polls)
    images = images or images_for(one)
    return train_recipe(one, out=out, dataset=images, shown=False, stop_signals=stop, **given)


def loop(
    path: Path,
    one: Recipe,
    *,
    images: Dataset | None = None,
    loss: nn.Module | None = None,
    polls: float = float("inf"),
) -> TrainingLoop:
    """A `TrainingLoop` of its own, for a look inside."""
    path.mkdir(parents=True, exist_ok=True)
    images = images or images_for(one)
    plan, stop = phases(one, images.class_counts, loss), cast(Any, StopAfter(polls))
    given = (one, images, plan, Run(path), Trajectory.of(one, images, plan, path), stop)
    return TrainingLoop(launch_fabric(one.trainer), *given, shown=False)


def trace(run: Run) -> dict[str, Any]:
    """All that a finished run left, without the times: equal traces mean equal runs, bit by bit."""
    newest = sorted(run.checkpoints.iterdir())[-1]
    left: dict[str, Any] = {}
    for file in sorted(newest.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            left[f"{file.stem} {name}"] = hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
    numbers = {"reached": json.loads((newest / "state.json").read_text())["reached"]}
    numbers |= {f"epoch {line['epoch']}": line for line in run.metrics}
    if run.done:
        left["predictions"] = pq.read_table(run.predictions).to_pydict()
        numbers["summary"] = run.summary
    for name, values in numbers.items():
        timed = ("seconds", "train_seconds", "images_per_second")
        left[name] = {key: value for key, value in values.items() if key not in timed}
    return left


KINDS = [method for method in METHODS if method == next(one for one in METHODS if kind(one) == kind(method))]
"""The first method of each kind, in the order of the registry: a law of the loop over these holds for all."""
