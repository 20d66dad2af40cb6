"""The sections of a recipe on how a network is trained: optimizer, schedule, trainer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from ffds.evaluation.measures import MEASURES
from ffds.methods.base import Beta
from ffds.settings import Finite, Milestones, Positive, Role, Section

__all__ = ["Count", "Optimizer", "Schedule", "Seed", "Trainer"]

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Count = Annotated[int, Field(ge=1)]
Epochs = Annotated[int, Field(ge=1, le=10**6)]
_TextOfInteger = BeforeValidator(lambda given: str(given) if type(given) is int else given)
Precision = Annotated[Literal["32", "tf32", "bf16", "16"], _TextOfInteger]
"""`precision: 16` means "16", so that it needs no quotes."""
Tracker = Literal["tensorboard", "mlflow", "csv"]
_WordAsList = BeforeValidator(lambda given: [given] if isinstance(given, str) else given)
Trackers = Annotated[tuple[Tracker, ...], Field(strict=False), _WordAsList]
"""`track: csv` means `track: [csv]`."""
_MEASURES = [measure.name for measure in MEASURES]
MeasureName = Field(pattern=f"^({'|'.join(_MEASURES)})$", description=", ".join(_MEASURES))


class Optimizer(Section):
    """Stochastic gradient descent with momentum, or AdamW, and the learning rate of each part."""

    name: Annotated[Literal["sgd", "adamw"], Role.ADDED] = "sgd"
    """The rule by which gradients change the weights."""
    lr: Positive = 0.1
    """Learning rate between warm-up and the first milestone."""
    momentum: Annotated[Finite, Field(ge=0, lt=1)] = 0.9
    """Of sgd: how much of the last update each one keeps."""
    weight_decay: Annotated[Finite, Field(ge=0)] = 2e-4
    """Of all parameters; with adamw or a layer_decay below 1 of all but biases, norms and embeddings."""
    nesterov: bool = False
    """Of sgd: whether its momentum looks ahead."""
    betas: Annotated[tuple[Beta, Beta], Field(strict=False), Role.ADDED] = (0.9, 0.999)
    """Of adamw: how slowly its means of gradients and of their squares change."""
    layer_decay: Annotated[Finite, Field(gt=0, le=1), Role.ADDED] = 1.0
    """Learning rate of a layer over that of the layer above it, the head first; 1 is the same for all."""
    head_lr: Annotated[Positive | None, Role.ADDED] = None
    """Learning rate of the classifier; null: lr."""

    def disagreements(self) -> Iterator[str]:
        if self.nesterov and self.momentum == 0:
            yield "nesterov needs momentum above 0"
        if self.nesterov and self.name != "sgd":
            yield f"nesterov is a setting of sgd, and name is {self.name}"
        if not self.has_default("betas") and self.name != "adamw":
            yield f"betas are settings of adamw, and name is {self.name}"


class Schedule(Section):
    """Epochs, warm-up, and how the learning rate falls.

    The rate rises linearly over the first `warmup` epochs, never over more than a tenth of all epochs;
    milestones are fractions of the epochs, so a shorter run keeps the shape of the published one.
    """

    epochs: Annotated[Epochs, Role.COLUMN] = 200
    """Passes over the training set."""
    warmup: Annotated[int, Field(ge=0, le=10**6)] = 5
    """Epochs over which the learning rate rises, at most a tenth of all."""
    milestones: Milestones = ((0.8, 0.1), (0.9, 0.01))
    """Drops of the learning rate: pairs of a fraction of the epochs and the factor from there on."""
    shape: Annotated[Literal["steps", "cosine"], Role.ADDED] = "steps"
    """After the warm-up: steps falls at the milestones; cosine falls to nearly 0, with no milestones."""
    frozen_epochs: Annotated[Annotated[int, Field(ge=0, le=10**6)] | Literal["all"], Role.ADDED] = 0
    """Epochs in which only the classifier is trained and the backbone stays as it is; all: throughout."""

    def disagreements(self) -> Iterator[str]:
        if self.shape == "cosine" and self.milestones and not self.has_default("milestones"):
            yield "shape cosine has no milestones: set milestones to []"


class Trainer(Section):
    """How the training runs on the machine."""

    batch_size: Annotated[int, Field(ge=1, le=2**20)] = 128
    """Of all devices together; batch norm uses the statistics of each device alone."""
    precision: Precision = "32"
    """Of the network: 32, tf32 (TensorFloat-32), bf16 or 16 (mixed); losses stay in float32 or better."""
    compile: Annotated[bool, Role.RUNNING] = False
    """Whether to compile the network with torch.compile."""
    cuda_graphs: Annotated[bool, Role.RUNNING, Role.NEUTRAL] = True
    """Whether to capture steps as CUDA graphs on a single GPU: the same numbers, faster, more memory."""
    channels_last: Annotated[bool, Role.RUNNING] = True
    """Whether images lie in memory pixel by pixel, which most convolutions like best."""
    devices: Annotated[Annotated[int, Field(ge=1, le=2**10)], Role.RUNNING] = 1
    """Devices on each machine, each with its share of every batch."""
    num_nodes: Annotated[Annotated[int, Field(ge=1, le=2**16)], Role.RUNNING] = 1
    """Machines that train together."""
    accelerator: Annotated[Literal["auto", "cpu", "cuda", "mps"], Role.RUNNING] = "auto"
    """Kind of device; auto: the best one that is there."""
    seed: Annotated[Seed, Role.COLUMN] = 0
    """Of the first weights, the order of the images, their augmentation and dropout."""
    eval_every: Annotated[Count, Role.RUNNING] = 1
    """Epochs between evaluations; the last epoch is always evaluated."""
    checkpoint_every: Annotated[Count, Role.RUNNING, Role.NEUTRAL] = 1
    """Epochs between checkpoints, the most that a killed process loses; an interrupted one saves first."""
    deterministic: Annotated[bool, Role.RUNNING] = False
    """Whether a GPU takes only kernels that give the same bits each time: slower."""
    track: Annotated[Trackers, Role.RUNNING, Role.ADDED, Role.NEUTRAL] = ()
    """Where each epoch is written besides metrics.jsonl: tensorboard, mlflow, csv, or several of them."""
    accumulate: Annotated[Count, Role.RUNNING, Role.ADDED] = 1
    """Parts of about equal size in which a device computes its share of a batch, one after the other: the
    same gradient with less memory; batch norm uses the statistics of each part alone."""
    clip_norm: Annotated[Positive | None, Role.ADDED] = None
    """Largest norm of the gradient, of all parameters together; a longer one is scaled down. null: none."""
    ema: Annotated[Annotated[Finite, Field(ge=0, lt=1)], Role.ADDED] = 0.0
    """Decay of the exponential moving average of weights and buffers that is scored and kept; 0: none. After
    step t it is at most (1 + t) / (10 + t)."""

    keep: Annotated[Literal["last", "best"], Role.ADDED] = "last"
    """Which network is the result: of the last epoch, or of the best one of the last phase by `best_by`."""
    best_by: Annotated[Annotated[str, MeasureName], Role.ADDED] = "balanced_accuracy"
    """Measure of the validation images by which an epoch is better than those before it."""
    patience: Annotated[Count | None, Role.ADDED] = None
    """Epochs of the last phase without a better one by `best_by`, after which training stops; null: never."""

    def disagreements(self) -> Iterator[str]:
        if self.accumulate > self.batch_size:
            yield f"accumulate divides batch_size={self.batch_size} into {self.accumulate} parts, some empty"
