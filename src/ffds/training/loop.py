"""The training loop: it knows phases, and no method by name."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from operator import index
from typing import Any

from lightning_fabric import Fabric
from torch import Tensor

from ffds.data.dataset import Dataset
from ffds.data.loader import Batch, EvalBatches
from ffds.errors import FfdsError, InputError, Interrupted
from ffds.methods.base import ClosedForm
from ffds.progress import Progress, epoch_line, live_line
from ffds.recipes.schema import Recipe
from ffds.run_directory import Run
from ffds.training.backend.cuda_graphs import CudaGraphs, allows_cuda_graphs
from ffds.training.backend.ranks import any_rank, average_buffers
from ffds.training.checkpoint import Checkpoint, Checkpoints, complete
from ffds.training.evaluate import Evaluated, eval_batches, evaluate
from ffds.training.features import are_constant, class_means, with_features
from ffds.training.kept.best import BestEpoch
from ffds.training.kept.closed_form import fitted
from ffds.training.phases import Phase
from ffds.training.signals import StopSignals
from ffds.training.state import Reached, TrainingState
from ffds.training.step import TrainStep, train_batches
from ffds.training.trajectory import Trajectory

__all__ = ["TrainingLoop"]

POLL_STEPS = 8
"""Steps between two exchanges among several ranks, each of which waits for the accelerators."""


class TrainingLoop:
    """One training, from its newest checkpoint to its last epoch.

    `stop_signals` are asked after each step. `after_epoch` is called with the metrics of each epoch, once
    they are saved, and may raise to stop, on all ranks together; the state is saved then.
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
        identity = {"recipe": recipe.identity, **dataset.identity}
        earlier = {"recipe": recipe.earlier_identity, **dataset.earlier_identity}
        self.checkpoints = Checkpoints(run.checkpoints, identity, earlier)
        self.best = BestEpoch.of(recipe, dataset, phases[-1].start)
        losses = [phase.stage.loss for phase in phases]
        begun = self.checkpoints.begun
        self.state = TrainingState.initial(fabric, recipe, dataset, losses, restored=begun)
        if are_constant(recipe):
            if (checkpoint := self.checkpoints.latest()) is not None:
                self.state.model.load_state_dict(checkpoint.model)
            dataset = with_features(fabric, recipe, self.state.model, dataset, shown=shown)
        self.images, self.shown = dataset, shown
        seed, held = recipe.trainer.seed, dataset.validation
        self.batches = train_batches(fabric, recipe, dataset)
        self.test = eval_batches(fabric, dataset.test, recipe.data)
        self.validation = eval_batches(fabric, held, recipe.data) if held else None
        self.graphs = CudaGraphs(on=allows_cuda_graphs(fabric, recipe))
        self.step = TrainStep(self.state, self.graphs, recipe.trainer, self.batches)
        self.title = f"{recipe.name} {recipe.method.name} seed {seed}"
        images = sum(one.stop - one.start for one in phases if one.stage.fit is None) * len(dataset.train)
        self.progress = Progress(self.title, images, "images", shown=shown and fabric.is_global_zero)
        self._seconds_counted_at = time.monotonic()

    @property
    def reached(self) -> Reached:
        """The point the run has reached."""
        return self.state.reached

    def train(self, until: int | None = None) -> Evaluated | None:
        """Train to the end and score the network that the run keeps on the test set.

        Where the end is not reached within `until` epochs, the state is saved and None is returned.

        Raises:
            Interrupted: a signal came; the state is saved.
            NonFiniteLossError: loss or gradient became NaN or infinite; the last checkpoint is kept.
            InputError: the checkpoints on disk belong to another run, or none of them can be read.
        """
        epochs = self.recipe.epochs
        with self.progress:
            every, trained = self.state.sizes.values()
            part = f", {trained:,} of {every:,} parameters trained" if trained < every else ""
            self.progress.say(f"{self.title}: {epochs} epochs of {len(self.batches)} steps{part}")
            self._resume()
            last = None
            try:
                while not self._finished and self.reached.epoch < (until or epochs):
                    last = self._epoch()
                if self._finished:
                    return self._result(last)
                if not self._is_due(self.recipe.trainer.checkpoint_every, self.reached.epoch):
                    self._save()
                return None
            except _StopRequested as stop:
                self._save()
                saved = f"state saved after epoch {self.reached.epoch}, step {self.reached.step}"
                raise Interrupted(f"{stop}: {saved}; the same command goes on from there") from stop

    @property
    def _finished(self) -> bool:
        """Whether the last epoch is reached, or no better one has come for as long as the recipe waits."""
        epoch, scored = self.reached.epoch, self.reached.epoch % self.recipe.trainer.eval_every == 0
        patient = self.best is None or not scored or not self.best.exhausted(self.reached)
        return epoch == self.recipe.epochs or not patient

    def _result(self, last: Evaluated | None) -> Evaluated:
        """What the kept network does on the test set; `last` is what that of the last epoch did, if known."""
        epoch, kept = self.reached.epoch, self.reached.kept_epoch
        if epoch < self.recipe.epochs and self.best:
            best = f"{self.best.measure.name} on validation since epoch {self.reached.best_validation_epoch}"
            self.progress.say(f"{self.title}: stopped after epoch {epoch}, no better {best}")
        if kept is None or kept == epoch:
            return last or self._evaluate(self.test)
        return self._evaluate(self.test, self.checkpoints.at(kept).model)

    def _resume(self) -> None:
        """Go on from the newest checkpoint: this run's own, or one of a run with the same history."""
        checkpoint = self.checkpoints.latest()
        with complete(self.checkpoints.directory):
            own = index(checkpoint.state["reached"]["epoch"]) if checkpoint else 0
        shared = self.trajectory.latest_shared(after=own)
        if shared is not None:
            self._branch_off(*shared)
        elif checkpoint is not None:
            with complete(self.checkpoints.directory):
                self.state.restore(checkpoint)
            step = f", step {self.reached.step}" if self.reached.step else ""
            self.progress.say(f"{self.title}: going on after epoch {self.reached.epoch}{step}")
        elif self.recipe.model.head_init == "class-means":
            given = (self.fabric, self.recipe, self.state.model, self.images.train)
            self.state.start_head_from(class_means(*given, shown=self.shown))
        self.progress.start_at(self.reached.images)
        if self.fabric.is_global_zero:
            self.run.keep_epochs(self.reached.epoch)
            self.checkpoints.prune()

    def _branch_off(self, epoch: int, checkpoint: Checkpoint) -> None:
        """Go on from the checkpoint of another run with the same history."""
        with complete(self.checkpoints.directory):
            self.state.restore(checkpoint, [p for p, phase in enumerate(self.phases) if phase.start < epoch])
        self._start_next_loss()
        self.state.observed.clear()
        if self.fabric.is_global_zero:
            self.run.take_epochs(checkpoint.state["metrics"])
        self._save()
        self.progress.say(f"{self.title}: sharing the history of another run after epoch {epoch}")

    def _epoch(self) -> Evaluated | None:
        """Train one epoch, then evaluate it and save a checkpoint where the recipe says so."""
        phase, lr = self._phase, self._lr
        images, train_seconds, seconds = self.reached.images, self.reached.train_seconds, self.reached.seconds
        observed = self._observes(phase)
        self._train_steps() if phase.stage.fit is None else self._fit(phase.stage.fit)
        images, train_seconds = self.reached.images - images, self.reached.train_seconds - train_seconds
        evaluated = self._is_due(self.recipe.trainer.eval_every, self.reached.epoch + 1)
        test = self._evaluate(self.test) if evaluated else None
        asked = evaluated or phase.renewed is not None
        validation = self._evaluate(self.validation) if asked and self.validation else None
        if phase.statistics is not None:
            phase.statistics.end_epoch()
        if validation is not None:
            phase.renew(validation.scores.per_class)
        validation = validation if evaluated else None
        self.reached.epoch, self.reached.step = self.reached.epoch + 1, 0
        if test is not None:
            self.reached.consider(test.scores.accuracy, self.reached.epoch)
        if validation is not None and self.best is not None:
            self.best.consider(self.reached, validation.scores)
        self._count_seconds()
        entry = {
            "epoch": self.reached.epoch,
            "phase": phase.stage.name,
            "lr": lr,
            "train": self.state.finish_epoch(),
            "test": test and test.scores.brief(),
            "validation": validation and validation.scores.all(),
            "seconds": self.reached.seconds - seconds,
            "images_per_second": images / train_seconds if train_seconds else None,
        }
        if self.fabric.is_global_zero:
            self.run.add_epoch(entry)
        if observed:
            self._use_observed()
        # Also where the epoch began as one to observe, and another session went on with it.
        self.state.observed.clear()
        due = self._is_due(self.recipe.trainer.checkpoint_every, self.reached.epoch)
        if due or self._finished or self.reached.kept_epoch == self.reached.epoch:
            self._save()
        epochs = self.recipe.epochs
        self.progress.report(epoch_line(entry, epochs), live_line(entry, epochs))
        try:
            self.after_epoch(entry)
        except Exception:
            if not self._is_due(self.recipe.trainer.checkpoint_every, self.reached.epoch):
                self._save()
            raise
        return test

    def _train_steps(self) -> None:
        """Take the steps of the epoch that are still to be done."""
        phase = self._phase
        self.state.set_lr(self._lr)
        self.state.train_mode(phase.trained[self.reached.epoch - phase.start])
        if self.reached.epoch == phase.start and self.reached.step == 0:
            self.state.begin(phase.stage, self.recipe.trainer.seed)
        began = time.monotonic()
        for batch in self._batches_from(self.reached.step):
            self.step(phase, batch, observed=self._observes(phase))
            self.reached.step += 1
            self.reached.images += batch.global_size
            self.reached.train_seconds += time.monotonic() - began
            began = time.monotonic()
            self.progress.advance(batch.global_size)
            # Before the poll: a checkpoint holds the buffers of the first rank only.
            if self.reached.step == len(self.batches):
                if self.state.trains == "network":
                    average_buffers(self.fabric, self.state.model)
                if self.state.average is not None:
                    self.state.average.take_from_first_rank(self.fabric)
            self._poll_step()
        # The last poll has waited for what an accelerator still had to do.
        self.reached.train_seconds += time.monotonic() - began

    def _fit(self, fit: ClosedForm) -> None:
        """Compute the classifier of the epoch in closed form, which counts as its one step."""
        if self.reached.step == 0:
            self.state.begin(self._phase.stage, self.recipe.trainer.seed)
            given = (self.fabric, self.recipe, self.state.model, self.images, fit)
            self.state.take(fitted(*given, shown=self.shown))
            self.reached.step = 1

    def _batches_from(self, step: int) -> Iterator[Batch]:
        """The batches of the epoch from a step on."""
        epoch, phase = self.reached.epoch, self._phase
        views, mix = phase.stage.views, phase.mixes[epoch - phase.start]
        return self.batches.epoch(epoch, step, *phase.drawing(epoch), views, mix)

    def _poll_step(self) -> None:
        """Stop after a step if it was not finite or a signal came; several accelerators ask seldom."""
        several, last = self.fabric.world_size > 1, self.reached.step == len(self.batches)
        if several and self.fabric.device.type != "cpu" and self.reached.step % POLL_STEPS and not last:
            return
        requested = self.stop_signals.requested
        step = self.step.nan_guard.first_non_finite(wait=several or last or requested is not None)
        if step is not None:
            batch = next(self._batches_from(step))
            self.step.raise_not_finite(self._phase, batch, step, self.run.path, self.dataset)
        self._stop_if(requested)

    def _stop_if(self, requested: signal.Signals | None) -> None:
        if any_rank(self.fabric, requested is not None):
            raise _StopRequested(requested.name if requested else "a signal to another rank")

    def _evaluate(self, batches: EvalBatches, kept: Mapping[str, Tensor] | None = None) -> Evaluated:
        """Scores of the network, with averaged weights if the recipe says so, or with those that are kept."""

        def poll() -> None:
            # Among several ranks a poll is a collective, and here they may have different numbers of batches.
            if self.fabric.world_size == 1:
                self._stop_if(self.stop_signals.requested)

        counts, cut = self.dataset.class_counts, self.recipe.data.cut
        with self.state.scored(kept):
            return evaluate(self.fabric, self.state.network, batches, counts, cut, self.graphs, poll)

    @property
    def _phase(self) -> Phase:
        return next(phase for phase in self.phases if self.reached.epoch < phase.stop)

    @property
    def _lr(self) -> float:
        return self.recipe.optimizer.lr * self._phase.lr_factors[self.reached.epoch - self._phase.start]

    def _is_due(self, every: int, epoch: int) -> bool:
        """Whether something done every so many epochs, and after the schedule and the run, is done now."""
        return epoch % every == 0 or epoch in (self.recipe.schedule.epochs, self.recipe.epochs)

    def _observes(self, phase: Phase) -> bool:
        """Whether p_y is gathered in this epoch, for a later loss of this run or of one that branches off."""
        epoch = self.reached.epoch
        return phase.next_from(epoch) is not None or epoch + 1 in self.trajectory.branches

    def _use_observed(self) -> None:
        """Start the next phase's loss from this epoch's statistics; save a shared checkpoint at a branch."""
        epoch, observed = self.reached.epoch, self.state.observed
        observed.sum_over_ranks()
        self._start_next_loss()
        # A session that did not know of the branch may have begun the epoch without observing it.
        complete = int(observed.counts.sum()) == len(self.dataset.train)
        # Before this run's own checkpoint: a session that resumes from that one does not come here again.
        if complete and epoch in self.trajectory.branches:
            self._write(lambda checkpoint: self.trajectory.save_shared(epoch, checkpoint, self.run.metrics))

    def _start_next_loss(self) -> None:
        for phase in self.phases:
            loss = phase.next_from(self.reached.epoch - 1)
            if loss is not None:
                loss.start_from(self.state.observed)

    def _save(self) -> None:
        self._count_seconds()
        reached = self.reached
        self._write(lambda checkpoint: self.checkpoints.save(checkpoint, reached.epoch, reached.step))

    def _write(self, write: Callable[[Checkpoint], object]) -> None:
        """Have the first rank write a checkpoint; all ranks fail if that fails."""
        checkpoint, failure = self.state.checkpoint(), None
        if self.fabric.is_global_zero:
            try:
                self.run.check_lock()
                write(checkpoint)
            except FfdsError as error:
                failure = error
        if any_rank(self.fabric, failure is not None):
            raise failure or InputError("the first rank could not save a checkpoint")

    def _count_seconds(self) -> None:
        """Add the time since the last call to the seconds of the run."""
        now = time.monotonic()
        self.reached.seconds += now - self._seconds_counted_at
        self._seconds_counted_at = now


class _StopRequested(Exception):  # noqa: N818  (a request, not an error)
    """A signal asked to stop; carries its name."""
