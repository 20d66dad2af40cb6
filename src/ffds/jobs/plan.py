"""Several runs, planned so that every stretch of training they share is trained once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ffds.data.dataset import Dataset
from ffds.data.open import open_dataset
from ffds.errors import FfdsError, InputError
from ffds.recipes.schema import Data, Recipe
from ffds.run_directory import Run
from ffds.training.checkpoint import Checkpoints
from ffds.training.phases import phases
from ffds.training.train import refuse_other_images
from ffds.training.trajectory import Trajectory

__all__ = ["OpenData", "Plan", "Planned", "plan"]


@dataclass
class Planned:
    """One run of a plan.

    Attributes:
        recipe: what it trains.
        run: where.
        done: epochs trained in earlier sessions.
        shared: epochs after those that another run trains, or has left a checkpoint of.
        branches: epochs after which it parts from another unfinished run. They do not depend on how far a run
            is: all processes that share the work agree on them, whenever they plan.
        trajectory: its history, None for a run that is done.
    """

    recipe: Recipe
    run: Run
    done: int
    shared: int = 0
    branches: frozenset[int] = frozenset()
    trajectory: Trajectory | None = None

    @property
    def to_train(self) -> int:
        """Epochs that this run trains itself."""
        return self.recipe.schedule.epochs - self.done - self.shared

    @property
    def place(self) -> str:
        """Its directory below that of all runs."""
        return str(Path(*self.run.path.parts[-3:]))

    def newest_epoch(self) -> int:
        """Epochs done at its own newest checkpoint."""
        return Checkpoints(self.run.checkpoints).newest_epoch()


@dataclass(frozen=True)
class Plan:
    """Which run trains which epochs.

    Attributes:
        runs: in the order they train.
        failures: run directory → why that run cannot be planned, e.g. because its data cannot be opened.

    >>> print(Plan(()))
    plan: 0 runs, 0 epochs: 0 done, 0 shared, 0 to train
    """

    runs: tuple[Planned, ...]
    failures: Mapping[Path, FfdsError] = field(default_factory=dict)

    def __str__(self) -> str:
        total = sum(one.recipe.schedule.epochs for one in self.runs)
        done, shared, to_train = (
            sum(getattr(one, name) for one in self.runs) for name in ("done", "shared", "to_train")
        )
        lines = [
            f"plan: {len(self.runs)} runs, {total} epochs: {done} done, {shared} shared, {to_train} to train"
        ]
        for one in self.runs:
            lines.append(f"  {one.place}: {one.done} done, {one.shared} shared, {one.to_train} to train")
        return "\n".join(lines)


class OpenData:
    """The dataset opened last: runs on the same data follow one another."""

    def __init__(self) -> None:
        self._newest: tuple[Data, Dataset] | None = None

    def newest(self, data: Data) -> Dataset | None:
        """The dataset of a recipe, if it is open."""
        return self._newest[1] if self._newest is not None and self._newest[0] == data else None

    def open(self, data: Data) -> Dataset:
        """The dataset of a recipe."""
        if self._newest is None or self._newest[0] != data:
            self._newest = data, open_dataset(data)
        return self._newest[1]


def plan(recipes: Sequence[Recipe], out: str | Path = "runs", data: OpenData | None = None) -> Plan:
    """Find the epochs that runs share, with each other and with what lies on disk.

    Args:
        recipes: resolved, each once; they train in this order.
        out: directory of all runs.
        data: where datasets are opened; None: they are let go of when the plan is made.
    """
    data = data or OpenData()
    runs: list[Planned] = []
    failures: dict[Path, FfdsError] = {}
    for recipe in recipes:
        run = Run.of(recipe, out)
        try:
            runs.append(_alone(recipe, run, out, data))
        except FfdsError as error:
            failures[run.path] = error
    for one in list(runs):
        try:
            if (dataset := data.newest(one.recipe.data)) is not None:
                refuse_other_images(one.run, dataset)
        except InputError as error:
            failures[one.run.path] = error
            runs.remove(one)
    _share(runs)
    return Plan(tuple(runs), failures)


def _alone(recipe: Recipe, run: Run, out: str | Path, data: OpenData) -> Planned:
    """A run without the others."""
    if run.done:
        return Planned(recipe, run, done=recipe.schedule.epochs)
    dataset = data.open(recipe.data)
    trajectory = Trajectory.of(recipe, dataset, phases(recipe, dataset.class_counts), out)
    planned = Planned(recipe, run, 0, trajectory=trajectory)
    planned.done = planned.newest_epoch()
    return planned


def _share(runs: Sequence[Planned]) -> None:
    """Note what each run takes from those before it, and where it parts from any other."""
    to_come = [(one, one.trajectory) for one in runs if one.trajectory is not None]
    through = Counter(history for _, trajectory in to_come for history in trajectory.histories)
    trained: set[str] = set()
    for one, trajectory in to_come:
        history, epochs = trajectory.histories, range(one.done + 1, trajectory.epochs + 1)
        promised = max((epoch for epoch in epochs if history[epoch] in trained), default=0)
        one.shared = max(promised - one.done, trajectory.newest() - one.done, 0)
        trained.update(history[epoch] for epoch in epochs if epoch > one.done + one.shared)
        # Behind the last epoch nobody goes on.
        going_on = [*(through[following] for following in history[1:]), 0]
        parting = (e for e in range(1, trajectory.epochs + 1) if through[history[e]] > max(1, going_on[e]))
        one.branches = frozenset(parting)
