"""Everything a run has to remember, in one place, so that all of it is saved and restored."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from ffds.data.dataset import Dataset
from ffds.errors import InputError
from ffds.evaluation.counts import ClassAccuracy
from ffds.evaluation.groups import class_groups
from ffds.losses.base import BuiltOnFeatures, ClassProbabilities, ScalesLogits
from ffds.methods.base import Stage, Trained
from ffds.models.build import Classifier, build_model, check_takes_one_image, new_head
from ffds.recipes.schema import Recipe
from ffds.seeding import derived_seed
from ffds.training.backend.devices import compile_model
from ffds.training.backend.ranks import gather_ranks, sum_over_ranks
from ffds.training.checkpoint import Checkpoint
from ffds.training.kept.average import WeightAverage, holding
from ffds.training.kept.closed_form import Fitted
from ffds.training.kept.reached import Reached
from ffds.training.optimizer import make_optimizer, set_lr

__all__ = ["Reached", "TrainingState"]

_TRAINED, _AVERAGED = "trained", "averaged"


@dataclass
class TrainingState:
    """Model, optimizer, losses and the running counts of the epoch.

    Attributes:
        model: the network itself, neither wrapped nor compiled; checkpoints hold this one.
        of_backbone: what is trained of its backbone, except while that is frozen.
        network: the model, compiled if the recipe says so; evaluation calls it.
        forward: the network as Fabric set it up for training steps.
        losses: the loss of every phase; their parameters, if any, are trained as those of the network are.
        observed: p_y of the epoch, class by class, where a later loss starts from it.
        loss_sum: sum of the loss over the epoch's samples, ().
        groups: classes of head, middle and tail.
        lr: learning rate of the epoch.
        trains: what its steps change.
        average: of the network's weights and buffers over the steps, if the recipe asks for one.
    """

    fabric: Fabric
    model: Classifier
    of_backbone: list[nn.Parameter]
    network: nn.Module
    forward: nn.Module
    optimizer: Optimizer
    fabric_optimizer: Any
    losses: nn.ModuleList
    observed: ClassProbabilities
    accuracy: ClassAccuracy
    loss_sum: Tensor
    groups: dict[str, list[int]]
    reached: Reached
    average: WeightAverage | None
    lr: float = math.nan
    trains: Trained = "network"

    @classmethod
    def initial(
        cls,
        fabric: Fabric,
        recipe: Recipe,
        dataset: Dataset,
        losses: Iterable[nn.Module],
        *,
        restored: bool = False,
    ) -> Self:
        """The state before the first step, with the losses of every phase, in order.

        One that will be `restored` from a checkpoint does without the weights that the network begins with.

        Raises:
            InputError: a device would get single images, and its batch norm needs two values.
        """
        height, channels = (dataset.train.images.shape[axis] for axis in (1, 3))
        side = recipe.data.image_size or height
        model = build_model(
            recipe.model.untrained if restored else recipe.model,
            head=recipe.head,
            head_scale=recipe.head_scale,
            prior_bias=recipe.method.prior_bias,
            num_classes=dataset.num_classes,
            in_channels=channels,
            seed=recipe.trainer.seed,
            image_size=side,
        )
        throughout = recipe.schedule.frozen_epochs == "all"
        rows, parts = min(recipe.trainer.batch_size, len(dataset.train)), recipe.trainer.accumulate
        rows = rows // fabric.world_size
        if not throughout and (rows == 1 or (parts > 1 and rows <= 2 * parts)):
            check_takes_one_image(model, torch.zeros(1, channels, side, side), recipe)
        if recipe.trainer.channels_last:
            model.to(memory_format=torch.channels_last)
        modules = nn.ModuleList(losses)
        _build_on_features(modules, model, recipe.trainer.seed)
        modules.to(fabric.device).train()
        optimizer = make_optimizer(recipe.optimizer, model, modules)
        network = compile_model(model, fabric.device) if recipe.trainer.compile else model
        of_backbone = [one for one in model.backbone.parameters() if one.requires_grad]
        if throughout:  # before several ranks agree on what they will exchange
            model.backbone.requires_grad_(False)
        # Evaluation does not call what Fabric returns, which would wait for other ranks.
        forward, fabric_optimizer = fabric.setup(network, optimizer)
        return cls(
            fabric=fabric,
            model=model,
            of_backbone=of_backbone,
            network=network,
            forward=forward,
            optimizer=optimizer,
            fabric_optimizer=fabric_optimizer,
            losses=modules,
            observed=ClassProbabilities(dataset.num_classes).to(fabric.device),
            accuracy=ClassAccuracy(dataset.num_classes, fabric.device),
            loss_sum=torch.zeros((), device=fabric.device),
            groups=class_groups(dataset.class_counts, recipe.data.cut),
            reached=Reached(),
            average=WeightAverage(model, ema, fabric.device) if (ema := recipe.trainer.ema) else None,
        )

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """All that is trained, by name: the network's parameters, and ``loss.PHASE.NAME`` of the losses."""
        of_losses = {f"loss.{name}": parameter for name, parameter in self.losses.named_parameters()}
        return {**dict(self.model.named_parameters()), **of_losses}

    @property
    def sizes(self) -> dict[str, int]:
        """How many numbers the network has, and how many of them are trained, except while frozen."""
        trained = (*self.of_backbone, *self.model.head.parameters())
        return {
            "parameters": sum(one.numel() for one in self.model.parameters()),
            "trained_parameters": sum(one.numel() for one in trained),
        }

    def scored(self, kept: Mapping[str, Tensor] | None = None) -> AbstractContextManager[None]:
        """While entered, the network has the weights to score: those kept, or else the averaged ones."""
        values = kept or self._scored
        return holding(self.model, values) if values else nullcontext()

    @property
    def _scored(self) -> dict[str, Tensor]:
        """What is scored by name, where it is not what the steps train."""
        values = {} if self.average is None else dict(self.average.averages)
        for loss in self.losses:
            if isinstance(loss, ScalesLogits):
                rows = {f"head.{name}": one for name, one in self.model.head.state_dict().items()}
                values |= {name: loss.folded(values.get(name, row)) for name, row in rows.items()}
        return values

    def start_head_from(self, means: Tensor) -> None:
        """Let a cosine head, and its average, begin with the class means (C, D) of the features."""
        head: Any = self.model.head
        head.start_from_means(means)
        if self.average is not None:
            self.average.restore(self.average.weights)

    def set_lr(self, lr: float) -> None:
        """Train with this learning rate from now on, each group of parameters with its part of it."""
        self.lr = lr
        set_lr(self.optimizer, lr)

    def train_mode(self, trains: Trained) -> None:
        """Prepare the network for training steps: of all of it, of its classifier, or of the loss alone.

        The batch norm of a frozen backbone uses the statistics that it has and does not change them.
        """
        self.trains = trains
        self.forward.train()
        if trains != "network":
            self.model.backbone.eval()
        if self.fabric.world_size == 1:  # several ranks expect a gradient of all that they began with
            for parameter in self.of_backbone:
                parameter.requires_grad_(trains == "network")
            self.model.head.requires_grad_(trains != "loss")
        if trains == "network" and isinstance(self.optimizer, torch.optim.SGD):
            self._begin_late_momentum()

    @property
    def frozen(self) -> Iterator[nn.Parameter]:
        """The parameters that the steps leave as they are."""
        parts = {"network": (), "classifier": (self.model.backbone,), "loss": (self.model,)}[self.trains]
        return (parameter for part in parts for parameter in part.parameters())

    @torch.no_grad()
    def begin(self, stage: Stage, seed: int) -> None:
        """Put the network into the state in which a stage begins: doing it twice changes nothing more.

        A classifier is trained, or computed, on the backbone that is scored: on the averaged one where the
        recipe averages weights. One that begins anew has no momentum either.
        """
        if stage.trains != "network" and self.average is not None:
            self.model.load_state_dict({**self.model.state_dict(), **self.average.averages})
        if stage.new_head:
            self.model.head.load_state_dict(new_head(self.model.head, seed))
            if self.average is not None:
                self.average.restore(self.average.weights)
            for parameter in self.model.head.parameters():
                for value in self.optimizer.state.get(parameter, {}).values():
                    if isinstance(value, Tensor):
                        value.zero_()

    @torch.no_grad()
    def take(self, fitted: Fitted) -> None:
        """Go on with a classifier in closed form; its loss and accuracy are those of the epoch."""
        self.model.head.load_state_dict(fitted.head)
        if self.average is not None:
            self.average.restore(self.average.weights)
        if self.fabric.is_global_zero:  # of several ranks, which have the same logits
            labels = fitted.labels.to(self.fabric.device)
            self.accuracy.update(fitted.logits.to(self.fabric.device), labels)
            self.loss_sum += F.cross_entropy(fitted.logits, fitted.labels, reduction="sum")

    def _begin_late_momentum(self) -> None:
        """Give parameters that were frozen a momentum of 0: the fused SGD expects one of all or of none."""
        if self.optimizer.state and self.optimizer.defaults["momentum"]:
            for parameter in (one for group in self.optimizer.param_groups for one in group["params"]):
                if not self.optimizer.state[parameter]:
                    self.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    def checkpoint(self) -> Checkpoint:
        """The state as plain tensors and numbers; every rank must call it.

        Its network is the one that is scored: the averaged one, if there is an average, with the classifier
        scaled, if scales are learned. The weights and buffers that the steps train then stand beside the
        optimizer's state, as ``NAME.trained``, and averages without their scale as ``NAME.averaged``.
        """
        model = self.model.state_dict()
        optimizer = {
            f"{name}.{key}": value
            for name, parameter in self.parameters.items()
            for key, value in self.optimizer.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }
        state = {
            "reached": asdict(self.reached),
            "world_size": self.fabric.world_size,
            "precision": self.fabric.strategy.precision.state_dict(),
        }
        scored, averages = self._scored, {} if self.average is None else self.average.averages
        optimizer |= {f"{name}.{_TRAINED}": model[name] for name in scored}
        optimizer |= {f"{name}.{_AVERAGED}": one for name, one in averages.items() if scored[name] is not one}
        model = model | scored
        loss = gather_ranks(self.fabric, self._own_tensors())
        return Checkpoint(model=model, optimizer=optimizer, loss=loss, state=state)

    def restore(self, checkpoint: Checkpoint, phases: Collection[int] | None = None) -> None:
        """Go back to a checkpoint of this run, or of one that shares its history in these phases.

        Raises:
            InputError: it was saved within an epoch by another number of processes, whose running counts
                cannot be distributed over these.
        """
        self.reached = Reached(**checkpoint.state["reached"])
        if self.reached.step and checkpoint.state["world_size"] != self.fabric.world_size:
            what = "the run stopped within an epoch with another number of processes"
            fix = "go on with as many as before until the epoch ends"
            allowed = checkpoint.state["world_size"]
            raise InputError(what, got=self.fabric.world_size, allowed=allowed, fix=fix)
        kept = {tuple(name.rsplit(".", 1)): tensor for name, tensor in checkpoint.optimizer.items()}
        trained = {name: kept.pop((name, key)) for name, key in list(kept) if key == _TRAINED}
        averaged = {name: kept.pop((name, key)) for name, key in list(kept) if key == _AVERAGED}
        self.model.load_state_dict(checkpoint.model | trained)
        if self.average is not None:
            self.average.restore(checkpoint.model | averaged)
        parameters = self.parameters
        for (name, key), tensor in kept.items():
            if phases is not None and _of_other_phase(name, phases):
                continue
            # The memory format decides which kernel updates a parameter, and so how it rounds. AdamW's
            # number of steps, `step`, is no tensor of the parameter's shape.
            like = tensor.to(self.fabric.device) if key == "step" else parameters[name]
            self.optimizer.state[parameters[name]][key] = torch.empty_like(like).copy_(tensor)
        # Between epochs all ranks are alike, so there may be another number of them.
        rank = self.fabric.global_rank if self.reached.step else 0
        for name, tensor in self._own_tensors(phases).items():
            tensor.copy_(checkpoint.loss[f"rank{rank}.{name}"])
        if checkpoint.state["precision"]:
            self.fabric.strategy.precision.load_state_dict(checkpoint.state["precision"])

    def finish_epoch(self) -> dict[str, float | None]:
        """Training loss and accuracies of the epoch over all ranks; the running counts start anew."""
        sum_over_ranks(self.fabric, *self._running().values())
        loss = self.loss_sum.item() / self.accuracy.total.sum().item()
        scores = {"loss": loss, **self.accuracy.compute(self.groups)}
        for tensor in self._running().values():
            tensor.zero_()
        return scores

    def _running(self) -> dict[str, Tensor]:
        correct, total = self.accuracy.correct, self.accuracy.total
        return {"epoch.correct": correct, "epoch.total": total, "epoch.loss_sum": self.loss_sum}

    def _own_tensors(self, phases: Collection[int] | None = None) -> dict[str, Tensor]:
        losses = {
            f"{index}.{name}": tensor
            for index, loss in enumerate(self.losses)
            if phases is None or index in phases
            for name, tensor in loss.state_dict().items()
        }
        return losses | self.observed.state_dict(prefix="observed.") | self._running()


def _build_on_features(losses: nn.ModuleList, model: Classifier, seed: int) -> None:
    """Make the parameters of losses that take features as wide as this network's, from the seed alone."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that would also seed the generators of all accelerators.
        torch.default_generator.manual_seed(derived_seed(seed, "loss"))
        for loss in losses:
            if isinstance(loss, BuiltOnFeatures):
                loss.build(model.num_features)


def _of_other_phase(name: str, phases: Collection[int]) -> bool:
    """Whether a parameter is that of a loss, ``loss.PHASE.NAME``, of none of these phases."""
    place, phase, *_ = name.split(".")
    return place == "loss" and int(phase) not in phases
