"""The tree of stretches: which run trains which epochs, so that those shared by several are trained once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
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

__all__ = ["Plan", "Planned", "Stretch", "dataset_opener", "plan"]


@dataclass(frozen=True, eq=False)
class Stretch:
    """Consecutive epochs of one run, trained by one process.

    Attributes:
        until: its last epoch.
        branches: epochs of the run after which it leaves a checkpoint for other runs.
        after: the stretch whose checkpoint it goes on from; None: from what is on disk, or from the start.
    """

    recipe: Recipe
    run: Run
    until: int
    branches: frozenset[int] = frozenset()
    after: Stretch | None = None


@dataclass
class Planned:
    """One run of a plan, of which `done` epochs were trained in earlier sessions.

    The `shared` epochs after those are trained by another run, or a checkpoint of them exists. After the
    epochs in `branches` it parts from another unfinished run. A run that is done has no trajectory.
    """

    recipe: Recipe
    run: Run
    done: int
    trajectory: Trajectory | None = None
    shared: int = 0
    branches: frozenset[int] = frozenset()

    @property
    def to_train(self) -> int:
        """Epochs that this run trains itself."""
        return self.recipe.epochs - self.done - self.shared


@dataclass(frozen=True)
class Plan:
    """Which run trains which epochs: the runs in the order they train, and the stretches left to train.

    Each stretch stands behind the one that it goes on from. `failures` says by run directory why a run cannot
    be planned, for example because its data cannot be opened.

    >>> print(Plan(()))
    plan: 0 runs, 0 epochs: 0 done, 0 shared, 0 to train
    """

    runs: tuple[Planned, ...]
    failures: Mapping[Path, FfdsError] = field(default_factory=dict)
    stretches: tuple[Stretch, ...] = ()

    def __str__(self) -> str:
        keys = ("done", "shared", "to_train")
        sums = [sum(getattr(one, key) for one in self.runs) for key in keys]
        text = "{}: {} done, {} shared, {} to train"
        lines = [text.format(f"plan: {len(self.runs)} runs, {sum(sums)} epochs", *sums)]
        for one in self.runs:
            lines.append(text.format(f"  {one.run.name}", one.done, one.shared, one.to_train))
        return "\n".join(lines)


def dataset_opener() -> Callable[[Data], Dataset]:
    """`open_dataset` that keeps the dataset opened last: runs on the same data follow one another."""
    return lru_cache(maxsize=1)(open_dataset)


def plan(
    recipes: Sequence[Recipe], out: str | Path = "runs", opened: Callable[[Data], Dataset] | None = None
) -> Plan:
    """Find the epochs that runs share, with each other and with what lies on disk.

    Args:
        recipes: resolved, each once; they train in this order.
        out: directory of all runs.
        opened: opens datasets; None: they are closed when the plan is made.
    """
    opened = opened or dataset_opener()
    runs: list[Planned] = []
    failures: dict[Path, FfdsError] = {}
    for recipe in recipes:
        run, done, trajectory = Run.of(recipe, out), recipe.epochs, None
        try:
            if not run.done:
                dataset = opened(recipe.data)
                trajectory = Trajectory.of(recipe, dataset, phases(recipe, dataset.class_counts), out)
                done = Checkpoints(run.checkpoints).newest_epoch()
            else:
                run.check()
                if not run.knows_images(recipe):
                    refuse_other_images(run, opened(recipe.data))
            runs.append(Planned(recipe, run, done, trajectory))
        except FfdsError as error:
            failures[run.path] = error
    # Finished runs are compared with their images where these are open already; no others are read for it.
    newest = next((one.recipe.data for one in reversed(runs) if one.trajectory), None)
    for one in [one for one in runs if one.recipe.data == newest]:
        try:
            refuse_other_images(one.run, opened(one.recipe.data))
        except InputError as error:
            failures[one.run.path] = error
            runs.remove(one)
    return Plan(tuple(runs), failures, tuple(_shared(runs)))


def _shared(runs: Sequence[Planned]) -> Iterator[Stretch]:
    """Note what each run takes from those before it and where it parts from any other; give its stretches."""
    unfinished = [(one, one.trajectory) for one in runs if one.trajectory is not None]
    through = Counter(history for _, trajectory in unfinished for history in trajectory.histories)
    trained: set[str] = set()
    ends: dict[str, Stretch] = {}
    for one, trajectory in unfinished:
        history, epochs = trajectory.histories, range(one.done + 1, trajectory.epochs + 1)
        on_disk = max(one.done, trajectory.newest())
        promised = max((epoch for epoch in epochs if history[epoch] in trained), default=0)
        begin = max(on_disk, promised)
        one.shared = begin - one.done
        trained.update(history[begin + 1 :])
        # No run goes on from its last epoch.
        going_on = [*(through[following] for following in history[1:]), 0]
        parting = (e for e in range(1, trajectory.epochs + 1) if through[history[e]] > max(1, going_on[e]))
        one.branches = frozenset(parting)
        stretch = ends[history[begin]] if promised > on_disk else None
        for until in sorted({epoch for epoch in one.branches if epoch > begin} | {trajectory.epochs}):
            stretch = Stretch(one.recipe, one.run, until, one.branches, stretch)
            ends.setdefault(history[until], stretch)
            yield stretch
