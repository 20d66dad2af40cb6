"""A table of the paper from its plan: train the runs that are missing, then read all that are there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ffds.errors import InputError
from ffds.jobs.options import ALONE, Jobs
from ffds.paper.table_plan import Failure, Table
from ffds.paper.tables import filled_table
from ffds.recipes.schema import Recipe
from ffds.reports.run_records import identity, read_csv, readable_runs, records
from ffds.run_directory import Run

__all__ = ["find_run", "reproduced", "train_missing", "with_seed"]


def reproduced(
    plan: Table,
    *,
    seeds: Sequence[int] | None = None,
    out: str | Path = "runs",
    runs: str | Path | None = None,
    train: bool = True,
    jobs: Jobs = ALONE,
) -> Table:
    """A planned table with what was measured for it.

    Each cell has one run per seed; without `seeds` that is seed 0 where it trains, else all that are there.
    `runs` is a ``runs.csv`` to read in place of the run directories in `out`; nothing is trained then.

    Raises:
        InputError: the ``runs.csv`` cannot be read, or the jobs cannot be had.
        Interrupted: SIGTERM or SIGINT; run it again to go on.
    """
    if runs is not None:
        return filled_table(plan, read_csv(runs), seeds=seeds)
    if not train:
        return filled_table(plan, records(out), seeds=seeds)
    seeds = (0,) if seeds is None else seeds
    recipes = [with_seed(cell.recipe, seed) for cell in plan.cells for seed in seeds]
    failures = train_missing(recipes, out, jobs)
    return filled_table(plan, records(out), seeds=seeds, failures=failures)


def train_missing(recipes: Sequence[Recipe], out: str | Path = "runs", jobs: Jobs = ALONE) -> list[Failure]:
    """Train those recipes that no finished run measures, each once, and return the trainings that failed."""
    finished = {(record.identity, record.seed) for record in records(out)}
    needed = {(identity(recipe), recipe.trainer.seed): recipe for recipe in recipes}
    missing = {Run.of(recipe, out).path: recipe for key, recipe in needed.items() if key not in finished}
    if not missing:
        return []
    # It imports torch, which tables and figures of finished runs do without.
    from ffds.jobs.engine import train_all

    failures = train_all(list(missing.values()), out=out, jobs=jobs)
    return [Failure(path, identity(missing[path]), error) for path, error in failures.items()]


def find_run(recipe: Recipe, out: str | Path = "runs") -> Run:
    """The finished run that measures a recipe with its seed; InputError without one that can be read."""
    own = Run.of(recipe, out)
    if own.done and own.knows_images(recipe):
        own.check()
        return own
    key = identity(recipe), recipe.trainer.seed
    for run, record in readable_runs(out):
        if (record.identity, record.seed) == key:
            return run
    got = f"no finished run of {recipe.name}, {recipe.method.name}, seed {key[1]}, {key[0].epochs} epochs"
    fix = "without --no-train it is trained; --out DIR names another directory of runs"
    raise InputError("this run is not there", where=out, got=got, fix=fix)


def with_seed(recipe: Recipe, seed: int) -> Recipe:
    """The recipe with another seed; InputError where it is out of range."""
    if not 0 <= seed < 2**32:
        raise InputError("a seed is out of range", where="--seeds", got=seed, allowed=f"0 to {2**32 - 1}")
    return recipe.model_copy(update={"trainer": recipe.trainer.model_copy(update={"seed": seed})})
