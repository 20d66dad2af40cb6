"""The recipe: everything that decides a run, typed and frozen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ffds.methods.base import Deferred, Head
from ffds.methods.registry import MethodSettings
from ffds.methods.reweighting import CrossEntropy
from ffds.settings import Finite, Fraction, Milestones, NonNegative, Positive, Section

__all__ = ["LOADING", "RUNNING", "Data", "Model", "Optimizer", "Recipe", "Schedule", "Trainer"]

Channels = Field(strict=False, min_length=1, max_length=3, description="one value a channel, or one for all")
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Count = Annotated[int, Field(ge=1)]
Precision = Annotated[
    Literal["32", "tf32", "bf16", "16"],
    BeforeValidator(lambda given: str(given) if type(given) is int else given),
]
"""`precision: 16` means "16": nobody should have to quote it on a command line."""
LOADING = ("in_memory", "workers", "cache")
"""Keys of `data` that decide how fast images come, and no bit of them: no part of what a run is."""
RUNNING = ("cuda_graphs", "checkpoint_every")
"""Keys of `trainer` of which the same holds."""
AugmentStep = Literal["pad-crop", "resized-crop", "hflip", "vflip"]


class Data(Section):
    """Which images, how long their tail is, and how they are augmented.

    `name` is the source: its reader decides the layout expected below `root`.
    """

    name: Literal[
        "digits", "cifar10", "cifar100", "tiny-imagenet", "ictext", "ictext-sample", "folder", "parquet"
    ]
    root: str | None = Field(default=None, description="directory of the data; null: no files needed")
    download: bool = Field(default=False, description="fetch the original archive into root if it is missing")
    imbalance_factor: Annotated[Finite, Field(ge=1)] | None = Field(
        default=None, description="largest over smallest class count; null: take the data as they are"
    )
    profile: Literal["exp", "step"] = "exp"
    seed: Seed = Field(default=0, description="of the long-tailed subset and of the splits")
    validation: Annotated[Finite, Field(ge=0, lt=1)] = Field(
        default=0.0, description="part of each training class held out for validation"
    )
    test_fraction: Fraction = Field(
        default=0.2, description="part of each class held out where no test set comes"
    )
    cut: Annotated[tuple[Count, Count, Count], Field(strict=False)] | None = Field(
        default=None, description="classes in head, middle, tail; null: thirds"
    )
    image_column: str | None = Field(default=None, description="Parquet: null finds it")
    label_column: str | None = Field(default=None, description="Parquet: null finds it")
    on_bad_image: Literal["stop", "skip"] = "stop"
    in_memory: Literal["auto", True, False] = Field(
        default="auto",
        description="false: images stay in their files and are decoded each time they are needed; "
        "auto: so do those that take more than a third of this machine's memory",
    )
    workers: Annotated[int, Field(ge=0, le=256)] | None = Field(
        default=None,
        description="processes that decode images not held in memory; null: one a core, at most 8; "
        "0: the training process decodes",
    )
    cache: bool = Field(
        default=True, description="keep decoded images on disk: the next opening of the same files takes them"
    )
    image_size: Count | None = Field(default=None, description="side the network sees; null: as stored")
    eval_resize: Count | None = Field(
        default=None, description="resize the short side to this before the centre crop in evaluation"
    )
    augment: Annotated[tuple[AugmentStep, ...], Field(strict=False)] = ()
    padding: Count = Field(default=4, description="zero pixels on each side before a pad-crop")
    mean: Annotated[tuple[Finite, ...], Channels] = (0.5,)
    std: Annotated[tuple[Positive, ...], Channels] = (0.25,)

    def disagreements(self) -> Iterator[str]:
        """Of augmentation, channels and sizes."""
        if "pad-crop" in self.augment and "resized-crop" in self.augment:
            yield "augment takes one crop: pad-crop or resized-crop"
        if len(set(self.augment)) != len(self.augment):
            yield "augment names a step twice"
        if len(self.mean) != len(self.std):
            yield f"mean has {len(self.mean)} channels and std {len(self.std)}"
        if self.eval_resize is not None and (self.image_size is None or self.eval_resize < self.image_size):
            yield "eval_resize needs image_size, and not less than it"


class Model(Section):
    """The network: `resnet20|32|44|56` for CIFAR, or `timm/NAME`."""

    name: str = Field(
        default="resnet32",
        pattern=r"^(resnet(20|32|44|56)|timm/[A-Za-z0-9_.\-]+)$",
        description="resnet20, resnet32, resnet44, resnet56 or timm/NAME",
    )
    pretrained: bool = False
    head: Literal["auto", "linear", "cosine"] = Field(
        default="auto", description="auto: cosine where the method needs it (LDAM), else linear"
    )

    def disagreements(self) -> Iterator[str]:
        """Only timm has pretrained weights."""
        if self.pretrained and not self.name.startswith("timm/"):
            yield f"pretrained weights exist for timm/NAME only, not for {self.name}"


class Optimizer(Section):
    """Stochastic gradient descent with momentum."""

    lr: Positive = 0.1
    momentum: Annotated[Finite, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegative = 2e-4
    nesterov: bool = False

    def disagreements(self) -> Iterator[str]:
        """Nesterov looks ahead along the momentum."""
        if self.nesterov and self.momentum == 0:
            yield "nesterov needs momentum above 0"


class Schedule(Section):
    """Epochs, warm-up and learning-rate drops.

    The rate rises linearly over the first `warmup` epochs, never over more than a tenth of all epochs;
    milestones are fractions of the epochs, so a shorter run keeps the shape of the published one.
    """

    epochs: Count = 200
    warmup: Annotated[int, Field(ge=0)] = 5
    milestones: Milestones = ((0.8, 0.1), (0.9, 0.01))


class Trainer(Section):
    """How the machine does it.

    `batch_size` counts over all devices; batch norm takes its statistics on each device alone.
    """

    batch_size: Count = 128
    precision: Precision = Field(
        default="32",
        description="of the network: 32; tf32, float32 with products in TensorFloat-32 where a GPU can; "
        "bf16 or 16, mixed; losses and scores are in float32 at least",
    )
    compile: bool = False
    cuda_graphs: bool = Field(
        default=True,
        description="on one CUDA device, record each kind of step and launch it as a whole: same numbers, "
        "faster; false takes less memory",
    )
    channels_last: bool = True
    devices: Count = 1
    num_nodes: Count = 1
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    seed: Seed = 0
    eval_every: Count = Field(default=1, description="epochs between evaluations; the last one always counts")
    checkpoint_every: Count = Field(
        default=1,
        description="epochs between checkpoints: as many are lost at most where a process is killed; "
        "one that is asked to stop saves first",
    )
    deterministic: bool = False


class Recipe(Section):
    """One run, resolved: what was asked for, with every default filled in."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}$",
        description="at most 100 of A-Z a-z 0-9 . _ -, the first a letter or digit; "
        "it is the name of the recipe's file unless the file has a key `name`",
    )
    data: Data
    model: Model = Model()
    method: MethodSettings = CrossEntropy()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    trainer: Trainer = Trainer()

    def disagreements(self) -> Iterator[str]:
        """Of the method with the network and with the length of the run."""
        if self.method.head == "cosine" and self.model.head == "linear":
            yield (
                f"method {self.method.name} diverges on a linear head: set model.head to auto or cosine, "
                "or take another method"
            )
        if isinstance(self.method, Deferred) and self.schedule.epochs < 2:
            yield (
                f"method {self.method.name} has two phases: set schedule.epochs to 2 or more, "
                "or take a one-phase method"
            )

    @property
    def head(self) -> Head:
        """The classifier head with `auto` resolved."""
        return self.method.head if self.model.head == "auto" else self.model.head

    @property
    def identity(self) -> dict[str, Any]:
        """Every setting but `LOADING` and `RUNNING`, ready for JSON: recipes that agree are the same run."""
        found = self.model_dump(mode="json", exclude={"data": set(LOADING), "trainer": set(RUNNING)})
        # Runs from before there was a choice stay the same runs.
        if self.method.sampler == "instance-balanced":
            del found["method"]["sampler"]
        return found

    @property
    def config_hash(self) -> str:
        """sha256 of the canonical JSON of this recipe's identity.

        >>> one = Recipe(name="own", data=Data(name="digits", workers=4))
        >>> one.config_hash == Recipe(name="own", data=Data(name="digits")).config_hash
        True
        """
        canonical = json.dumps(self.identity, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()
