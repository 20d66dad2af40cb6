"""Runs that share a history share its checkpoints, so that no epoch is trained twice.

The state after an epoch depends on the data, the network, the optimizer, the trainer's settings and, for each
epoch so far, on the loss and its learning rate. Hash that, and runs with the same hash are at the same point.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from ffds.data.dataset import Dataset
from ffds.errors import InputError, tell
from ffds.methods.base import Trained
from ffds.recipes.schema import Recipe
from ffds.run_directory import Run
from ffds.settings import json_digest
from ffds.training.checkpoint import Checkpoint, Checkpoints
from ffds.training.phases import Phase
from ffds.training.phases import phases as phases_of

__all__ = ["Trajectory", "history_hashes", "loss_identity"]


_FROZEN: dict[Trained, dict[str, object]] = {
    "network": {},
    "classifier": {"frozen": True},
    "loss": {"frozen": "network"},
}
"""What an epoch's history says about the parts of the network that it does not train."""


@dataclass(frozen=True)
class Trajectory:
    """The history of one run, and the checkpoints saved on it by runs that share it.

    `histories` are those of `history_hashes`; after the epochs in `branches` this run saves a checkpoint for
    others, in a directory named by the history. `finished` is a run that is done whose complete history is a
    part of this one: its own last checkpoint serves as a shared one.
    """

    directory: Path
    histories: tuple[str, ...]
    branches: frozenset[int] = frozenset()
    finished: Run | None = None

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        dataset: Dataset,
        phases: Sequence[Phase],
        out: str | Path,
        branches: Collection[int] = (),
    ) -> Trajectory:
        """The trajectory of a recipe; all runs of a recipe's name below `out` share one directory.

        One that trains beyond its schedule leaves a checkpoint at the end of that.
        """
        directory = Path(out) / recipe.name / "trajectories"
        histories = history_hashes(recipe, dataset, phases)
        parting = {*branches, recipe.schedule.epochs} if recipe.method.begins_as else branches
        return cls(directory, histories, frozenset(parting), _finished(recipe, dataset, histories, out))

    @property
    def epochs(self) -> int:
        """Length of the run."""
        return len(self.histories) - 1

    def newest(self) -> int:
        """The last epoch of this history that has a checkpoint, 0 without one; nothing is verified."""
        return next(self._stored(), 0)

    def has(self, epoch: int) -> bool:
        """Whether there is a checkpoint after an epoch, whole but not verified."""
        return self._checkpoints(epoch).newest_epoch() == epoch or self._ends(epoch)

    def latest_shared(self, after: int) -> tuple[int, Checkpoint] | None:
        """The newest checkpoint of this history later than an epoch that verifies, with its epoch."""
        for epoch in self._stored(after):
            try:
                checkpoint = self._checkpoints(epoch).latest() or self._of_finished(epoch)
            except InputError as error:  # the run trains these epochs itself
                tell(f"warning: {error}")
                continue
            if checkpoint is not None:
                return epoch, checkpoint
        return None

    def save_shared(self, epoch: int, checkpoint: Checkpoint, metrics: Sequence[dict[str, Any]]) -> None:
        """Save the state after an epoch, with the metrics so far, for the runs that branch off there."""
        state = {**checkpoint.state, "metrics": list(metrics)}
        self._checkpoints(epoch).save(replace(checkpoint, state=state), epoch)

    def _ends(self, epoch: int) -> bool:
        return self.finished is not None and Checkpoints(self.finished.checkpoints).newest_epoch() == epoch

    def _of_finished(self, epoch: int) -> Checkpoint | None:
        """The last checkpoint of the finished run, with its metrics, if it is that after this epoch."""
        checkpoint = Checkpoints(self.finished.checkpoints).latest() if self.finished else None
        if self.finished is None or checkpoint is None or checkpoint.state["reached"]["epoch"] != epoch:
            return None
        return replace(checkpoint, state={**checkpoint.state, "metrics": self.finished.metrics})

    def _stored(self, after: int = 0) -> Iterator[int]:
        return (epoch for epoch in range(self.epochs, after, -1) if self.has(epoch))

    def _checkpoints(self, epoch: int) -> Checkpoints:
        history = self.histories[epoch]
        return Checkpoints(self.directory / history[:16], {"history": history})


def _finished(recipe: Recipe, dataset: Dataset, histories: Sequence[str], out: str | Path) -> Run | None:
    """The run of the method with which this one begins, if it is done, on these images and as this one."""
    if recipe.method.begins_as is None:
        return None
    other = recipe.model_copy(update={"method": recipe.method.begins_as})
    run, ends = Run.of(other, out), history_hashes(other, dataset, phases_of(other, dataset.class_counts))
    same = run.done and ends[-1] == histories[other.epochs]
    return run if same and not dataset.changes(Checkpoints(run.checkpoints).newest_identity()) else None


def history_hashes(recipe: Recipe, dataset: Dataset, phases: Sequence[Phase]) -> tuple[str, ...]:
    """Hash of everything that decides the state, of untrained phases: at the start, and after each epoch."""
    start = {part: recipe.identity[part] for part in ("data", "model", "optimizer", "trainer")}
    images = {"class_counts": dataset.class_counts, "images": dataset.train.digest}
    scale = {} if recipe.head_scale == 1 else {"head_scale": recipe.head_scale}
    prior_bias = {"prior_bias": True} if recipe.method.prior_bias else {}
    hashes = [json_digest(["", start | images | {"head": recipe.head} | scale | prior_bias])]
    observed = False
    for phase in phases:
        # Whether the loss starts from what was observed is part of its own epochs, not of those before.
        epoch: dict[str, object] = {
            "loss": loss_identity(phase.stage.loss),
            "with_features": phase.stage.with_features,
            "starts_from_observed": observed,
        }
        if phase is phases[-1] and (recipe.trainer.keep == "best" or recipe.trainer.patience is not None):
            # These epochs decide which one is kept: what is chosen from them is not in a shared checkpoint.
            epoch["chosen_by"] = recipe.config_hash
        if phase.renewed is not None and dataset.validation is not None:
            epoch["renewed_by"] = dataset.validation.digest
        if phase.stage.sampler != "instance-balanced":
            epoch["sampler"] = phase.stage.sampler
        if phase.stage.views:
            epoch["views"] = [dict(view) for view in phase.stage.views]
        if (synthetic := recipe.method.synthetic) is not None:
            epoch["synthetic"] = synthetic._asdict()
        if phase.stage.new_head:
            epoch["new_head"] = True
        if phase.stage.fit is not None:
            epoch["fit"] = repr(phase.stage.fit)
        for number, factor in enumerate(phase.lr_factors, phase.start):
            own: dict[str, object] = {"lr_factor": factor, **_FROZEN[phase.trained[number - phase.start]]}
            if phase.stage.sampler == "progressive":
                own["progress"] = phase.drawing(number)[1]
            if (mix := phase.mixes[number - phase.start]) is not None:
                own["mix"] = asdict(replace(mix, first=0.0, last=0.0))
            hashes.append(json_digest([hashes[-1], epoch | own]))
        observed = phase.stage.observed_for is not None
    return tuple(hashes)


def loss_identity(loss: nn.Module) -> str:
    """Identifies a loss, equally in every process: its repr and a hash of its buffers and settings."""
    digest = hashlib.sha256()
    for name, tensor in loss.state_dict().items():
        digest.update(f"{name}={tensor.tolist()};".encode())
    for name, value in _settings(loss):
        digest.update(f"{name}={value!r};".encode())
    # An address in a repr differs from process to process.
    return f"{re.sub(r' at 0x[0-9a-f]+', '', repr(loss))}, state {digest.hexdigest()[:16]}"


def _settings(loss: nn.Module) -> Iterator[tuple[str, object]]:
    """Plain public attributes of a loss and its submodules; this package's own have theirs in the repr."""
    for place, module in loss.named_modules():
        if not type(module).__module__.startswith("ffds."):
            for name, value in sorted(vars(module).items()):
                if name != "training" and not name.startswith("_") and _is_plain(value):
                    yield f"{place}.{name}", value


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, int | float | str)
