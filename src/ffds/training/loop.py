"""The training loop: it knows phases, and no method by name."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from lightning_fabric import Fabric
from torch import nn

from ffds.data.dataset import Dataset
from ffds.data.loader import EvalBatches, TrainBatches
from ffds.errors import FfdsError, Interrupted, NonFiniteLossError
from ffds.evaluation.groups import class_groups
from ffds.evaluation.measures import ClassAccuracy, Scores
from ffds.files import write_json
from ffds.losses.statistics import ClassProbabilities
from ffds.methods.reweighting import Custom
from ffds.models.build import build_model
from ffds.progress import TrainingProgress
from ffds.recipes.schema import Recipe
from ffds.run_directory import Run
from ffds.training.backend.compile import compile_model
from ffds.training.backend.cuda_graphs import CudaGraphs
from ffds.training.checkpoint import Checkpoint, Checkpoints
from ffds.training.evaluate import Predictions, eval_batches, evaluate
from ffds.training.phases import Phase
from ffds.training.signals import StopSignals
from ffds.training.state import Reached, TrainingState, any_rank, average_buffers
from ffds.training.step import TrainStep
from ffds.training.trajectory import Trajectory

__all__ = ["Outcome", "TrainingLoop"]

POLL_STEPS = 8
"""Steps between two questions to all ranks, each of which waits for the accelerators."""


@dataclass(frozen=True)
class Outcome:
    """What a finished training gives.

    Attributes:
        scores: on the test set, after the last epoch.
        predictions: of each test image, after the last epoch.
        reached: epochs, time and the best epoch on the test set.
    """

    scores: Scores
    predictions: Predictions
    reached: Reached


class TrainingLoop:
    """One training, from its newest checkpoint to its last epoch.

    Args:
        fabric: launched; devices, precision, collectives.
        recipe: the resolved recipe.
        dataset: the images.
        phases: losses and learning rates, epoch by epoch.
        run: where metrics and checkpoints go.
        trajectory: this run's history, and what runs that share it left.
        stop_signals: asked after each step.
        after_epoch: called with the metrics of each epoch, once they are saved; may raise to stop.
        shown: whether to report progress on standard error.
    """

    def __init__(
        self,
        fabric: Fabric,
        recipe: Recipe,
        dataset: Dataset,
        phases: tuple[Phase, ...],
        run: Run,
        trajectory: Trajectory,
        stop_signals: StopSignals,
        after_epoch: Callable[[dict[str, Any]], None] = lambda entry: None,
        *,
        shown: bool = True,
    ) -> None:
        self.fabric, self.recipe, self.dataset, self.phases, self.run = fabric, recipe, dataset, phases, run
        self.trajectory, self.stop_signals, self.after_epoch = trajectory, stop_signals, after_epoch
        self.counts = dataset.class_counts
        self.groups = class_groups(self.counts, recipe.data.cut)
        self.batches = TrainBatches(
            dataset.train,
            recipe.data,
            batch_size=recipe.trainer.batch_size,
            seed=recipe.trainer.seed,
            device=fabric.device,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
        )
        self.state = self._initial_state()
        self.checkpoints = Checkpoints(run.checkpoints, {"recipe": recipe.identity, **dataset.identity})
        self.progress = TrainingProgress(
            f"{recipe.name} {recipe.method.name} seed {recipe.trainer.seed}",
            recipe.schedule.epochs,
            len(self.batches),
            shown=shown and fabric.is_global_zero,
        )
        self.test = eval_batches(fabric, dataset.test, recipe.data)
        self.held_out = eval_batches(fabric, dataset.validation, recipe.data) if dataset.validation else None
        self.graphs = self._cuda_graphs()
        self.step = TrainStep(
            fabric,
            self.forward,
            self.optimizer,
            self.state,
            self.graphs,
            recipe.trainer.seed,
            rows=self.batches.rows,
        )
        self._lap_began = time.monotonic()

    def train(self) -> Outcome:
        """Train to the last epoch.

        Raises:
            Interrupted: a signal came; the state is saved.
            NonFiniteLossError: loss or gradient became NaN or infinite; the last checkpoint is kept.
            InputError: the checkpoints on disk belong to another run, or none of them can be read.
        """
        with self.progress:
            self._resume()
            last = None
            try:
                while self.reached.epoch < self.recipe.schedule.epochs:
                    last = self._epoch()
                scores, predictions = last or self._evaluate(self.test)
            except _StopRequested as stop:
                self._save()
                raise Interrupted(
                    f"{stop}: state saved after epoch {self.reached.epoch}, step {self.reached.step}; "
                    "the same command goes on from there"
                ) from stop
        return Outcome(scores, predictions, self.reached)

    @property
    def reached(self) -> Reached:
        """The point the run has reached."""
        return self.state.reached

    def _initial_state(self) -> TrainingState:
        recipe, device = self.recipe, self.fabric.device
        height, channels = (self.dataset.train.images.shape[axis] for axis in (1, 3))
        model = build_model(
            recipe.model,
            head=recipe.head,
            num_classes=self.dataset.num_classes,
            in_channels=channels,
            seed=recipe.trainer.seed,
            image_size=recipe.data.image_size or height,
        )
        if recipe.trainer.channels_last:
            model.to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), fused=True, **recipe.optimizer.model_dump())
        # Evaluation calls it directly: what Fabric wraps around the training step would wait for other ranks.
        self.network = compile_model(model, device) if recipe.trainer.compile else model
        self.forward, self.optimizer = self.fabric.setup(self.network, optimizer)
        return TrainingState(
            fabric=self.fabric,
            model=model,
            optimizer=optimizer,
            losses=nn.ModuleList([phase.stage.loss for phase in self.phases]).to(device).train(),
            observed=ClassProbabilities(self.dataset.num_classes).to(device),
            accuracy=ClassAccuracy(self.dataset.num_classes, device),
            loss_sum=torch.zeros((), device=device),
            reached=Reached(),
        )

    def _cuda_graphs(self) -> CudaGraphs:
        # Ranks would have to record at the same time; a loss scaler waits for the GPU; and of a loss of
        # somebody else's nobody knows whether it keeps to tensors.
        alone = self.fabric.world_size == 1 and self.fabric.device.type == "cuda"
        scaled = self.recipe.trainer.precision == "16"
        known = not isinstance(self.recipe.method, Custom)
        return CudaGraphs(on=self.recipe.trainer.cuda_graphs and alone and known and not scaled)

    def _epoch(self) -> tuple[Scores, Predictions] | None:
        """Train one epoch, score it and save it where the recipe says so."""
        phase, lr = self._phase, self._lr
        images, train_seconds, seconds = self.reached.images, self.reached.train_seconds, self.reached.seconds
        observed = self._observes(phase)
        self._train_steps()
        images, train_seconds = self.reached.images - images, self.reached.train_seconds - train_seconds
        scored = self._is_due(self.recipe.trainer.eval_every, self.reached.epoch + 1)
        test = self._evaluate(self.test) if scored else None
        validation = self._evaluate(self.held_out) if scored and self.held_out else None
        if phase.statistics is not None:
            phase.statistics.end_epoch()
        self.reached.epoch, self.reached.step = self.reached.epoch + 1, 0
        if test is not None:
            self.reached.consider(test[0].accuracy, self.reached.epoch)
        self._lap()
        entry = {
            "epoch": self.reached.epoch,
            "phase": phase.stage.name,
            "lr": lr,
            "train": self._train_scores(),
            "test": test and test[0].brief(),
            "validation": validation and validation[0].brief(),
            "seconds": self.reached.seconds - seconds,
            "images_per_second": images / train_seconds if train_seconds else None,
        }
        if self.fabric.is_global_zero:
            self.run.add_epoch(entry)
        if observed:
            self._hand_on()
        # Also where the epoch began as one to observe, and another session went on with it.
        self.state.observed.clear()
        if self._is_due(self.recipe.trainer.checkpoint_every, self.reached.epoch):
            self._save()
        self.progress.epoch(entry)
        self.after_epoch(entry)
        return test

    @property
    def _phase(self) -> Phase:
        return next(phase for phase in self.phases if self.reached.epoch < phase.stop)

    @property
    def _lr(self) -> float:
        factors = self._phase.lr_factors
        return self.recipe.optimizer.lr * factors[self.reached.epoch - self._phase.start]

    def _train_steps(self) -> None:
        phase = self._phase
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr
        self.forward.train()
        began = time.monotonic()
        for batch in self.batches.epoch(self.reached.epoch, self.reached.step, phase.stage.sampler):
            self.step(phase, batch, observed=self._observes(phase))
            self.reached.step += 1
            self.reached.images += batch.global_size
            self.reached.train_seconds += time.monotonic() - began
            began = time.monotonic()
            self.progress.step(batch.global_size)
            # Before the poll: a checkpoint holds the buffers of the first rank alone.
            if self.reached.step == len(self.batches):
                average_buffers(self.fabric, self.state.model)
            self._poll_step()
        # The last poll has waited for what an accelerator still had to do.
        self.reached.train_seconds += time.monotonic() - began

    def _stop_at(self, step: int) -> NoReturn:
        phase, lr = self._phase, self._lr
        batch = next(self.batches.epoch(self.reached.epoch, step, phase.stage.sampler))
        found = self.step.diagnosis(phase, batch, step)
        place = {"epoch": self.reached.epoch + 1, "step": step + 1, "phase": phase.stage.name, "lr": lr}
        rank = "" if self.fabric.is_global_zero else f"-rank{self.fabric.global_rank}"
        file = self.run.path / f"diagnosis{rank}.json"
        write_json(file, place | found)
        raise NonFiniteLossError(
            f"loss or gradient is not finite in epoch {place['epoch']}, step {place['step']} "
            f"({phase.stage.name}, lr {lr:g}): stopped before the optimizer step\n"
            f'  diagnosis: {file}\n  fix:       a lower optimizer.lr, or trainer.precision="32"',
            file,
        )

    def _train_scores(self) -> dict[str, float | None]:
        self.state.sum_running()
        loss = self.state.loss_sum.item() / self.state.accuracy.total.sum().item()
        scores = {"loss": loss, **self.state.accuracy.compute(self.groups)}
        self.state.clear_running()
        return scores

    def _is_due(self, every: int, epoch: int) -> bool:
        """Whether what is done every so many epochs, and after the last, is done after this one."""
        return epoch % every == 0 or epoch == self.recipe.schedule.epochs

    def _evaluate(self, batches: EvalBatches) -> tuple[Scores, Predictions]:
        # Among several ranks a poll is a collective, and here they may have different numbers of batches.
        poll = self._poll if self.fabric.world_size == 1 else lambda: None
        cut = self.recipe.data.cut
        return evaluate(self.fabric, self.network, batches, self.counts, cut, self.graphs, poll)

    def _poll_step(self) -> None:
        """Whether to go on after a step; several accelerators are asked now and then only, as that waits."""
        several, last = self.fabric.world_size > 1, self.reached.step == len(self.batches)
        if several and self.fabric.device.type != "cpu" and self.reached.step % POLL_STEPS and not last:
            return
        requested = self.stop_signals.requested
        bad = self.step.nan_guard.first_non_finite(wait=several or last or requested is not None)
        if bad is not None:
            self._stop_at(bad)
        self._stop_if(requested)

    def _poll(self) -> None:
        self._stop_if(self.stop_signals.requested)

    def _stop_if(self, requested: signal.Signals | None) -> None:
        if any_rank(self.fabric, requested is not None):
            raise _StopRequested(requested.name if requested else "a signal to another rank")

    def _lap(self) -> None:
        now = time.monotonic()
        self.reached.seconds += now - self._lap_began
        self._lap_began = now

    def _observes(self, phase: Phase) -> bool:
        epoch = self.reached.epoch
        return phase.next_from(epoch) is not None or epoch + 1 in self.trajectory.branches

    def _hand_on(self) -> None:
        """Give what the epoch showed to the next loss of this run, and to the runs that branch off here."""
        epoch, observed = self.reached.epoch, self.state.observed
        observed.sum_over_ranks()
        self._start_next_loss()
        # A session that did not know of the branch may have begun the epoch without observing it.
        whole = int(observed.counts.sum()) == len(self.dataset.train)
        # Before this run's own checkpoint: whoever resumes from that has left this one.
        if whole and epoch in self.trajectory.branches:
            self._write(lambda checkpoint: self.trajectory.save_shared(epoch, checkpoint, self.run.metrics))

    def _start_next_loss(self) -> None:
        for phase in self.phases:
            loss = phase.next_from(self.reached.epoch - 1)
            if loss is not None:
                loss.start_from(self.state.observed)

    def _save(self) -> None:
        self._lap()
        reached = self.reached
        self._write(lambda checkpoint: self.checkpoints.save(checkpoint, reached.epoch, reached.step))

    def _write(self, write: Callable[[Checkpoint], object]) -> None:
        checkpoint, failure = self.state.checkpoint(), None
        if self.fabric.is_global_zero:
            try:
                write(checkpoint)
            except FfdsError as error:
                failure = error
        if any_rank(self.fabric, failure is not None):
            raise failure or FfdsError("the first rank could not save a checkpoint")

    def _resume(self) -> None:
        checkpoint = self.checkpoints.latest()
        own = checkpoint.state["reached"]["epoch"] if checkpoint else 0
        shared = self.trajectory.latest(after=own)
        if shared is not None:
            self._branch_off(*shared)
        elif checkpoint is not None:
            self.state.restore(checkpoint)
            self.progress.resume(self.reached.epoch, self.reached.step)
        if self.fabric.is_global_zero:
            self.run.keep_epochs(self.reached.epoch)

    def _branch_off(self, epoch: int, checkpoint: Checkpoint) -> None:
        """Go on from where another run with the same history was."""
        self.state.restore(checkpoint, [p for p, phase in enumerate(self.phases) if phase.start < epoch])
        self._start_next_loss()
        self.state.observed.clear()
        if self.fabric.is_global_zero:
            self.run.take_epochs(checkpoint.state["metrics"])
        self._save()
        self.progress.resume(epoch, 0, "sharing the history of another run")


class _StopRequested(Exception):  # noqa: N818  (a request, not an error)
    """A signal asked to stop; carries its name."""
