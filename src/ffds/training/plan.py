"""Several runs, planned so that every stretch of training they share is trained once."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ffds.data.dataset import Dataset
from ffds.data.open import open_dataset
from ffds.errors import FfdsError, Interrupted
from ffds.methods import phases
from ffds.recipes.schema import Data, Recipe
from ffds.runs import Run
from ffds.training.checkpoint import Checkpoints
from ffds.training.train import train_recipe
from ffds.training.trajectory import Trajectory

__all__ = ["Plan", "Planned", "plan", "train_all"]


@dataclass
class Planned:
    """One run of a plan.

    Attributes:
        recipe: what it trains.
        run: where.
        done: epochs trained in earlier sessions.
        shared: epochs after those that another run trains, or has left a checkpoint of.
        branches: epochs after which others go on from this run.
    """

    recipe: Recipe
    run: Run
    done: int
    shared: int = 0
    branches: set[int] = field(default_factory=set)

    @property
    def to_train(self) -> int:
        """Epochs that this run trains itself."""
        return self.recipe.schedule.epochs - self.done - self.shared


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
            place = Path(*one.run.path.parts[-3:])
            lines.append(f"  {place}: {one.done} done, {one.shared} shared, {one.to_train} to train")
        return "\n".join(lines)


def plan(recipes: Sequence[Recipe], out: str | Path = "runs") -> Plan:
    """Find the epochs that runs share, with each other and with what lies on disk.

    Args:
        recipes: resolved; they train in this order.
        out: directory of all runs.
    """
    return _plan(recipes, out, _Data())


def train_all(
    recipes: Sequence[Recipe], *, out: str | Path = "runs", shown: bool = True
) -> Mapping[Path, FfdsError]:
    """Train several runs, sharing what they have in common; finished ones are not trained again.

    Args:
        recipes: resolved; they train in this order, each once.
        out: directory of all runs.
        shown: whether to report the plan and the progress on standard error.

    Returns:
        Run directory → why that run failed; the others are done.

    Raises:
        Interrupted: SIGTERM or SIGINT; the same call goes on.
    """
    wanted = list({recipe.config_hash: recipe for recipe in recipes}.values())
    data = _Data()
    # One process plans, and a training hands its branches to the other ones.
    planned = _plan(wanted, out, data) if _first() else Plan(tuple(_unplanned(one, out) for one in wanted))
    if shown and _first():
        print(planned, file=sys.stderr, flush=True)
    _report(planned.failures)
    failures = dict(planned.failures)
    for one in planned.runs:
        if not one.run.done:
            try:
                dataset = data.open(one.recipe.data) if _first() else None
                train_recipe(one.recipe, out=out, shown=shown, dataset=dataset, branches=one.branches)
            except Interrupted:
                raise
            except FfdsError as error:
                failures[one.run.path] = error
                _report({one.run.path: error})
    return failures


def _first() -> bool:
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def _unplanned(recipe: Recipe, out: str | Path) -> Planned:
    return Planned(recipe, Run.of(recipe, out), done=0)


def _report(failures: Mapping[Path, FfdsError]) -> None:
    """Say what failed, each different reason once."""
    reasons: dict[str, list[Path]] = {}
    for path, error in failures.items():
        reasons.setdefault(str(error), []).append(path)
    for reason, paths in reasons.items() if _first() else ():
        print(f"failed: {', '.join(map(str, paths))}: {reason}", file=sys.stderr)


def _plan(recipes: Sequence[Recipe], out: str | Path, data: _Data) -> Plan:
    runs: list[Planned] = []
    failures: dict[Path, FfdsError] = {}
    trained_by: dict[str, Planned] = {}
    for recipe in recipes:
        run = Run.of(recipe, out)
        try:
            runs.append(_planned(recipe, run, out, data, trained_by))
        except FfdsError as error:
            failures[run.path] = error
    return Plan(tuple(runs), failures)


def _planned(
    recipe: Recipe, run: Run, out: str | Path, data: _Data, trained_by: dict[str, Planned]
) -> Planned:
    """Plan one run behind those that train before it, which `trained_by` names by the history they reach."""
    epochs = recipe.schedule.epochs
    if run.done:
        return Planned(recipe, run, done=epochs)
    counts = data.open(recipe.data).class_counts
    trajectory = Trajectory.of(recipe, counts, phases(recipe, counts), out)
    history, own = trajectory.histories, Checkpoints(run.checkpoints).newest_epoch()
    promised = next((epoch for epoch in range(epochs, own, -1) if history[epoch] in trained_by), 0)
    on_disk = trajectory.newest()
    if promised > on_disk:
        trained_by[history[promised]].branches.add(promised)
    planned = Planned(recipe, run, done=own, shared=max(promised - own, on_disk - own, 0))
    for epoch in range(own + planned.shared + 1, epochs + 1):
        trained_by.setdefault(history[epoch], planned)
    return planned


class _Data:
    """The dataset opened last: runs on the same data follow one another."""

    def __init__(self) -> None:
        self._newest: tuple[Data, Dataset] | None = None

    def open(self, data: Data) -> Dataset:
        if self._newest is None or self._newest[0] != data:
            self._newest = data, open_dataset(data)
        return self._newest[1]
