"""Many runs, each stretch of training once: one after the other here, or as tasks of a Dask cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ffds.data.content import knowing_images_if_there
from ffds.data.dataset import Dataset
from ffds.environment import is_first_rank, is_rank
from ffds.errors import FfdsError, Interrupted, note, tell
from ffds.files import is_locked
from ffds.jobs.cluster import GOES_ON, Cluster, Ended
from ffds.jobs.options import ALONE, Jobs
from ffds.jobs.plan import Plan, Planned, dataset_opener, plan
from ffds.recipes.schema import Recipe
from ffds.run_directory import Run, RunInUse
from ffds.training.signals import StopSignals
from ffds.training.train import train_recipe

__all__ = ["train_all", "train_stretch"]

_POLL_SECONDS = 0.2


def train_all(
    recipes: Sequence[Recipe], *, out: str | Path = "runs", shown: bool = True, jobs: Jobs = ALONE
) -> Mapping[Path, FfdsError]:
    """Train several runs, sharing the epochs that they have in common; finished ones are not trained again.

    The recipes train in this order, each once. Returns run directory → why that run failed; the others are
    done. `shown` reports the plan and the progress on standard error.

    Raises:
        InputError: the jobs cannot be had.
        Interrupted: SIGTERM or SIGINT; the same call goes on.
    """
    recipes = knowing_images_if_there(recipes)
    recipes = list({recipe.config_hash: recipe for recipe in recipes}.values())
    jobs.check(recipes)
    if jobs.on_dask:
        return _train_on_dask(recipes, out, jobs, shown=shown)
    return _train_here(recipes, out, shown=shown)


def train_stretch(
    recipe: Recipe,
    out: str | Path,
    *,
    until: int | None = None,
    branches: Collection[int] = (),
    shown: bool = True,
    dataset: Dataset | None = None,
    after_epoch: Callable[[Mapping[str, Any]], None] = lambda entry: None,
) -> None:
    """Train a run up to an epoch in this process, as soon as no other process trains it.

    It stops after `until` epochs of the run (None: all), and leaves a checkpoint for other runs after each
    epoch of `branches`. `dataset` holds the recipe's data if they are open already. `after_epoch` is called
    with the metrics of each epoch and may raise to stop.
    """
    # Ranks that train one run together have to do the same at the same time: none waits by itself.
    alone = not is_rank() and recipe.trainer.devices * recipe.trainer.num_nodes == 1
    given: Any = {"dataset": dataset, "branches": branches, "until": until, "after_epoch": after_epoch}
    while True:
        if alone:
            _wait_until_free(Run.of(recipe, out), shown=shown)
        try:
            train_recipe(recipe, out=out, shown=shown, **given)
        except RunInUse:  # a third process was faster
            if not alone:
                raise
        else:
            return


def _wait_until_free(run: Run, *, shown: bool) -> None:
    """Wait while another process, such as `ffds train`, trains a run."""
    lock = run.path / "lock"
    with StopSignals() as signals:
        _say(f"waiting for the process that trains {run.name}", shown=shown and is_locked(lock))
        while not signals.requested and is_locked(lock):
            time.sleep(_POLL_SECONDS)
        if signals.requested:
            raise Interrupted(f"{signals.requested.name}: {GOES_ON}")


def _train_here(recipes: Sequence[Recipe], out: str | Path, *, shown: bool) -> dict[Path, FfdsError]:
    """One run after the other, each to its end."""
    opened = dataset_opener()
    if is_first_rank():
        planned = plan(recipes, out, opened)
        _say(str(planned), shown=shown)
    else:  # the first rank plans, and a training tells its branches to the others
        planned = Plan(tuple(Planned(recipe, Run.of(recipe, out), done=0) for recipe in recipes))
    failures = _reported(planned.failures)
    with StopSignals() as signals:
        for one in planned.runs:
            # Ranks are asked by the training itself, all at the same step.
            if signals.requested and not is_rank():
                raise Interrupted(f"{signals.requested.name}: {GOES_ON}")
            try:
                if not one.run.done:
                    dataset = opened(one.recipe.data) if is_first_rank() else None
                    train_stretch(one.recipe, out, branches=one.branches, shown=shown, dataset=dataset)
            except Interrupted:
                raise
            except FfdsError as error:
                failures |= _reported({one.run.path: error})
    return failures


def _train_on_dask(
    recipes: Sequence[Recipe], out: str | Path, jobs: Jobs, *, shown: bool
) -> dict[Path, FfdsError]:
    """Stretches as tasks; where a run failed, another one trains the epochs that others go on from."""
    planned = plan(recipes, out)
    _say(str(planned), shown=shown)
    failures = _reported(planned.failures)
    with StopSignals() as signals:
        while planned.stretches:
            with Cluster(jobs, signals, shown=shown) as cluster:
                for stretch in planned.stretches:
                    cluster.submit(stretch)
                for stretch, message in cluster.messages():
                    text = message.message if isinstance(message, Ended) else message
                    if isinstance(message, Ended) and message.code not in (0, Interrupted.exit_code):
                        failures |= _reported({stretch.run.path: message.error})
                    elif text:
                        _say(f"{stretch.run.name}: {text}", shown=shown)
            planned = plan([one for one in recipes if Run.of(one, out).path not in failures], out)
            failures |= _reported(planned.failures)
    return failures


def _say(text: str, *, shown: bool) -> None:
    if shown:
        note(text)


def _reported(failures: Mapping[Path, FfdsError]) -> dict[Path, FfdsError]:
    """The failures, printed on standard error, each different reason once."""
    reasons: dict[str, list[Path]] = {}
    for path, error in failures.items():
        reasons.setdefault(str(error), []).append(path)
    for reason, paths in reasons.items():
        if is_first_rank():
            tell(f"failed: {', '.join(map(str, paths))}: {reason}")
    return dict(failures)
