"""From a recipe to a finished run directory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from ffds.data.content import images_sum, knowing_images
from ffds.data.dataset import Dataset
from ffds.data.open import open_dataset
from ffds.data.resample.smote import with_synthetic
from ffds.environment import environment
from ffds.errors import InputError, note
from ffds.evaluation.measures import Scores
from ffds.methods.reweighting import Custom
from ffds.recipes.load import load_recipe, override_texts
from ffds.recipes.schema import Recipe
from ffds.run_directory import Run
from ffds.training.backend.devices import launch_fabric, naming_failed_ranks, precision_flags
from ffds.training.backend.ranks import any_rank
from ffds.training.callbacks import Callbacks, check_callbacks
from ffds.training.checkpoint import Checkpoints
from ffds.training.evaluate import Evaluated
from ffds.training.kept.best import BestEpoch
from ffds.training.loop import TrainingLoop
from ffds.training.own_loss import check_is_loss, try_loss
from ffds.training.phases import Phase, phases, refuse_without_validation
from ffds.training.signals import StopSignals, stop_at_once
from ffds.training.state import Reached
from ffds.training.trackers import check_trackers, tracked
from ffds.training.trajectory import Trajectory, loss_identity

__all__ = ["refuse_other_images", "train", "train_recipe"]


def refuse_other_images(run: Run, dataset: Dataset) -> None:
    """Refuse a finished run whose images are not those that its recipe names now.

    A run that is not finished is refused by its checkpoints when it resumes.
    """
    if run.done and (got := dataset.changes(Checkpoints(run.checkpoints).newest_identity())):
        fix = "put the images back, or give the run of the new ones another recipe name or --out DIR"
        what = "the run is done, but on other images than are there now"
        raise InputError(what, where=run.path, got=got, fix=fix)


def train(
    recipe: str,
    *,
    method: str | None = None,
    seed: int | None = None,
    out: str | Path = "runs",
    overrides: Mapping[str, Any] | None = None,
    data: object = None,
    loss: nn.Module | None = None,
    callbacks: Sequence[object] = (),
    shown: bool = True,
) -> Run:
    """Train one method on one recipe; the same call resumes a stopped run and returns a finished one.

    Args:
        recipe: name of a shipped recipe, or path of a file.
        method: one of Table 1, e.g. ``"d-ffds"``; None takes the recipe's.
        seed: `trainer.seed`; None takes the recipe's.
        out: directory of all runs.
        overrides: recipe keys and values, e.g. ``{"schedule.epochs": 30}``.
        data: images of yours in place of those of the recipe: a `datasets.Dataset`, an ImageFolder of
            torchvision, or any map-style dataset of (image, label); or a pair (train, test) or a mapping
            from names of splits to datasets, such as a `DatasetDict`. See `docs/folders.md`.
        loss: a loss of your own, a module (logits (N, C), target (N,)) → (); a copy of it trains in one phase
            with the recipe's schedule, its parameters with those of the network. Where the recipe mixes
            images, by mixup or CutMix, target holds probabilities (N, C). One with `observe` and
            `end_epoch` has `end_epoch` called after each epoch; one with `renew` is given the accuracy of
            each class on validation images after each epoch, as a tensor (C,); one whose mean does not divide
            by the batch size has a method `divisor`, as `ffds.losses.LDAMLoss` does. Its repr, its
            parameters and buffers and its plain public attributes are its identity.
        callbacks: objects that are told of the beginning, of each epoch and of the end, see
            `ffds.training.callbacks.Callback`; one may raise to stop. A finished run calls none.
        shown: whether to report progress on standard error.

    Returns:
        The run: `run.summary` holds the results in percent, `run.path` everything else.

    Raises:
        InputError: recipe, data, loss or run directory cannot be used, or the run began on other images.
        NonFiniteLossError: loss or gradient became NaN or infinite.
        Interrupted: SIGTERM or SIGINT; the state is saved.
    """
    if loss is not None:
        check_is_loss(loss)
        if method is not None:
            raise InputError("a method and a loss of your own exclude each other", got=f"method={method!r}")
    given = dict(overrides or {}) | ({} if seed is None else {"trainer.seed": seed})
    resolved = load_recipe(recipe, override_texts(given), method=method if loss is None else "custom").recipe
    if loss is not None:
        resolved = resolved.model_copy(update={"method": Custom(loss=loss_identity(loss))})
    dataset = None
    if data is not None:
        resolved, dataset = _with_given(resolved, data, given)
    # A copy: training would change the buffers, and with them the identity of the next call.
    own = copy.deepcopy(loss)
    return train_recipe(resolved, out=out, loss=own, dataset=dataset, callbacks=callbacks, shown=shown)


def train_recipe(
    recipe: Recipe,
    *,
    out: str | Path = "runs",
    loss: nn.Module | None = None,
    shown: bool = True,
    dataset: Dataset | None = None,
    branches: Collection[int] = (),
    until: int | None = None,
    after_epoch: Callable[[Mapping[str, Any]], None] = lambda entry: None,
    callbacks: Sequence[object] = (),
    when_done: Callable[[Run, Dataset], None] = lambda run, dataset: None,
    stop_signals: StopSignals | None = None,
) -> Run:
    """As `train`, for a recipe that is already resolved, and for data that may be open already.

    After the epochs in `branches`, other runs will go on from this one's state. After `until` epochs the
    state is saved and training stops, with the run unfinished. `after_epoch` is called with the metrics of
    each epoch, once they are saved, and may raise to stop, as the `callbacks` may, which are called on the
    first rank only. `when_done` is called on the first rank once this call has finished the run.
    `stop_signals` are asked after each step whether to stop; by default SIGTERM and SIGINT ask for it. The
    loss itself is trained, not a copy.
    """
    recipe = knowing_images(recipe)
    run = Run.of(recipe, out)
    if run.done:
        if dataset is None and not run.knows_images(recipe):
            dataset = open_dataset(recipe.data)
        if dataset is not None:
            refuse_other_images(run, dataset)
        return run
    check_callbacks(callbacks)
    check_trackers(recipe.trainer.track)
    with stop_signals or StopSignals() as signals, precision_flags(recipe.trainer):
        fabric = launch_fabric(recipe.trainer)
        if any_rank(fabric, fabric.broadcast(recipe.config_hash) != recipe.config_hash):
            fix = "start all ranks with the same arguments; torch.manual_seed(0) before the loss is made"
            raise InputError("the ranks would train different recipes or losses", fix=fix)
        # `fork_rng` would initialise all GPUs if it were not told which one.
        gpu = [fabric.device] if fabric.device.type == "cuda" else []
        named = naming_failed_ranks(fabric, run.name)
        track = recipe.trainer.track if fabric.is_global_zero else ()
        with (
            named,
            _locked(run, fabric) as held,
            torch.random.fork_rng(gpu),
            tracked(track, held) as trackers,
        ):
            told = Callbacks(fabric, held, [*trackers, *callbacks])
            with stop_at_once():
                dataset, plan = _planned(fabric, recipe, dataset, loss)
                if fabric.is_global_zero:
                    _start(held, recipe, dataset, torch.cuda.get_device_name(fabric.device) if gpu else None)
                told.train_start(recipe)
                trajectory = Trajectory.of(recipe, dataset, plan, out, fabric.broadcast(sorted(branches)))

                def after(entry: Mapping[str, Any]) -> None:
                    told.epoch_end(entry)
                    after_epoch(entry)

                loop = TrainingLoop(
                    fabric, recipe, dataset, plan, held, trajectory, signals, after, shown=shown
                )
                if fabric.is_global_zero:
                    held.add_to_environment(loop.state.sizes)
            evaluated = loop.train(until)
            if evaluated is not None:
                if fabric.is_global_zero:
                    _finish(held, recipe, dataset, evaluated, loop.reached)
                    with stop_at_once():
                        when_done(run, dataset)
                told.train_end()
            fabric.barrier()
    return run


def _with_given(recipe: Recipe, given: object, overrides: Mapping[str, Any]) -> tuple[Recipe, Dataset]:
    """The recipe with the images given from Python, and these as a dataset."""
    if places := [key for key in ("data.name", "data.root", "data.images") if key in overrides]:
        what, fix = "the images are given from Python and by the recipe", "give one of the two"
        raise InputError(what, got=", ".join(places), fix=fix)
    data = recipe.data.model_copy(update={"name": "python", "root": None, "images": None})
    from ffds.data.sources.python import python_source

    source = python_source(given, data)
    data = data.model_copy(update={"images": images_sum(source)})
    return recipe.model_copy(update={"data": data}), open_dataset(data, source)


def _planned(
    fabric: Fabric, recipe: Recipe, dataset: Dataset | None, loss: nn.Module | None
) -> tuple[Dataset, tuple[Phase, ...]]:
    """The images and the phases of a run; what cannot be trained is refused before anything is written."""
    with fabric.rank_zero_first(local=True):  # one process downloads
        dataset = with_synthetic(dataset or open_dataset(recipe.data), recipe.method.synthetic)
    if loss is not None:
        try_loss(loss, dataset.num_classes, fabric.device, mixes=recipe.data.mixes)
    plan = phases(recipe, dataset.class_counts, loss)
    refuse_without_validation(plan, dataset)
    BestEpoch.of(recipe, dataset, plan[-1].start)
    return dataset, plan


def _start(run: Run, recipe: Recipe, dataset: Dataset, accelerator: str | None) -> None:
    """Write what a run has from its beginning; say what is another machine or version than before."""
    Checkpoints(run.checkpoints).recover()
    known = environment(accelerator) | {"image_shape": dataset.train.images.shape[1:]}
    for change in run.start(recipe, known):
        note(f"note: {run.path} goes on elsewhere than it began, {change}")


@contextmanager
def _locked(run: Run, fabric: Fabric) -> Iterator[Run]:
    """Lock the run directory on the first rank; all ranks fail if another process holds it."""
    with ExitStack() as held:
        refused: InputError | None = None
        if fabric.is_global_zero:
            try:
                run = held.enter_context(run.locked())
            except InputError as error:
                refused = error
        refused = fabric.broadcast(refused)
        if refused is not None:
            raise refused
        yield run


def _finish(run: Run, recipe: Recipe, dataset: Dataset, evaluated: Evaluated, reached: Reached) -> None:
    """Write what only a finished run has; the summary last, which says that it is done."""
    run.keep_epochs(reached.epoch)
    names, files = dataset.class_names, dataset.test.files
    replace(evaluated.predictions, class_names=names, files=files).write(run.predictions)
    tests = np.bincount(dataset.test.labels, minlength=dataset.num_classes).tolist()
    run.name_classes(zip(names, dataset.class_counts, tests, strict=True))
    run.finish(_summary(recipe, run, evaluated.scores, reached))


def _summary(recipe: Recipe, run: Run, scores: Scores, reached: Reached) -> dict[str, Any]:
    """The results: measures of the network that is kept, and the accuracy of the last epoch's beside it."""
    metrics, kept, by = run.metrics, reached.kept_epoch, recipe.trainer.best_by
    validation = metrics[(kept or reached.epoch) - 1]["validation"]
    chosen = {"epoch": kept, "by": by, "validation": reached.best_on_validation}
    return {
        "recipe": recipe.name,
        "method": recipe.method.name,
        "seed": recipe.trainer.seed,
        "config_hash": recipe.config_hash,
        "epochs": reached.epoch,
        **scores.measures,
        "accuracy": {
            "last": scores.accuracy if kept is None else metrics[-1]["test"]["accuracy"],
            "best_on_test": reached.best_on_test,
            "best_epoch": reached.best_epoch,
            **({} if kept is None else {"kept": scores.accuracy}),
        },
        **({} if kept is None else {"kept": chosen}),
        **({"validation": {name: validation[name] for name in scores.measures}} if validation else {}),
        "train_accuracy": metrics[-1]["train"]["accuracy"],
        "seconds": reached.seconds,
        "images_per_second": reached.images / reached.train_seconds,
    }
