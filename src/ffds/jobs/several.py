"""Several runs, each stretch of training once: one after the other, or several at a time."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from ffds.environment import is_first_rank, is_rank
from ffds.errors import FfdsError, Interrupted
from ffds.jobs.jobs import ALONE, Jobs
from ffds.jobs.journal import Journal
from ffds.jobs.plan import OpenData, Plan, Planned, plan
from ffds.jobs.share import Share
from ffds.jobs.workers import Workers, how_it_ended
from ffds.recipes.schema import Recipe
from ffds.run_directory import Run
from ffds.training.signals import StopSignals

__all__ = ["train_all"]

_GOES_ON = "the same command goes on from what is saved"


def train_all(
    recipes: Sequence[Recipe], *, out: str | Path = "runs", shown: bool = True, jobs: Jobs = ALONE
) -> Mapping[Path, FfdsError]:
    """Train several runs, sharing what they have in common; finished ones are not trained again.

    Any number of processes may do so at once, on all machines that share the directory `out`, if its file
    system has locks. Each takes the first run that nobody trains and that does not go on from epochs that
    somebody trains; while there is none, it waits. What a killed process was training is taken over.

    Args:
        recipes: resolved; they train in this order, each once.
        out: directory of all runs.
        shown: whether to report the plan and the progress on standard error.
        jobs: how many at a time. With `jobs`, a run whose process is killed fails, and the others go on.

    Returns:
        Run directory → why that run failed; the others are done.

    Raises:
        InputError: the jobs cannot be had.
        Interrupted: SIGTERM or SIGINT; the same call goes on.
    """
    wanted = list({recipe.config_hash: recipe for recipe in recipes}.values())
    jobs.check(wanted)
    if jobs.in_own_processes:
        return _train_at_once(wanted, Path(out), jobs, shown=shown)
    share = Share(Path(out), shown)
    planned = _planned(wanted, out, share.data, shown=shown)
    if is_rank() or any(map(_on_several_devices, wanted)):
        share.train_in_order(planned)
    else:
        share.train(planned)
    return share.journal.failures


def _planned(recipes: Sequence[Recipe], out: str | Path, data: OpenData | None, *, shown: bool) -> Plan:
    """The plan, told before anything is trained."""
    if not is_first_rank():
        # One rank plans, and a training hands its branches to the other ones.
        return Plan(tuple(Planned(recipe, Run.of(recipe, out), done=0) for recipe in recipes))
    planned = plan(recipes, out, data)
    if shown:
        print(planned, file=sys.stderr, flush=True)
    return planned


def _on_several_devices(recipe: Recipe) -> bool:
    return recipe.trainer.devices * recipe.trainer.num_nodes > 1


def _train_at_once(
    recipes: Sequence[Recipe], out: Path, jobs: Jobs, *, shown: bool
) -> Mapping[Path, FfdsError]:
    # The images are let go of: from now on they are where they are trained on.
    planned = _planned(recipes, out, None, shown=shown)
    with TemporaryDirectory(prefix="ffds-") as directory:
        journal = Path(directory) / "journal.jsonl"
        share = Share(out, shown, Journal(journal))
        share.fail(planned.failures)
        with StopSignals() as interruption:
            codes = _worked(share, planned, jobs, journal, interruption)
        left = share.unfinished(planned.runs)
        if left and (interruption.requested is not None or Interrupted.exit_code in codes):
            name = interruption.requested.name if interruption.requested else "a process was interrupted"
            raise Interrupted(f"{name}: state of {len(left)} runs saved; the same command goes on from there")
        share.fail({one.run.path: FfdsError(f"no process was left for it; {_GOES_ON}") for one in left})
        return {path: error for path, error in share.journal.failures.items() if not Run(path).done}


def _worked(
    share: Share, planned: Plan, jobs: Jobs, journal: Path, interruption: StopSignals
) -> Sequence[int]:
    """Have the processes train, and note what one leaves that is killed or stopped; their exit codes."""
    recipes = [one.recipe.model_dump_json() for one in share.unfinished(planned.runs)]
    order = {"recipes": recipes, "out": str(share.out), "shown": share.shown, "journal": str(journal)}
    environments = jobs.environments(min(jobs.count, len(recipes)))
    orders = [order | {"place": place} for place in range(len(environments))]
    codes = []
    with Workers("ffds.jobs.worker", orders, environments, journal.parent) as workers:
        for place, code in workers.ended(interruption):
            codes.append(code)
            if code != 0 and interruption.requested is None:
                stopped = code == Interrupted.exit_code
                how = "was stopped by a signal" if stopped else how_it_ended(code)
                end = FfdsError(f"the process that trained it {how}; {_GOES_ON}")
                begun = share.journal.newest(place)
                share.fail(
                    {one.run.path: end for one in share.unfinished(planned.runs) if one.run.path == begun}
                )
    return codes
