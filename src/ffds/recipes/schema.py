"""The recipe: everything that decides a run, typed and frozen."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from ffds.methods.base import Deferred, Head, Method, Mix
from ffds.methods.registry import MethodSettings
from ffds.methods.reweighting import CrossEntropy
from ffds.recipes.training_sections import Count, Optimizer, Schedule, Seed, Trainer
from ffds.settings import (
    AugmentStep,
    Finite,
    Fraction,
    Positive,
    Role,
    Section,
    by_dotted_key,
    json_digest,
    opposed_steps,
)

__all__ = ["SECTIONS", "Data", "Interpolation", "Model", "Optimizer", "Recipe", "Schedule", "Trainer"]
__all__ += ["keys_with"]

Channels = Field(strict=False, min_length=1, max_length=3)
Sum = Field(pattern=r"^sha256:[0-9a-f]{16}$", description="sha256: and 16 of 0-9 a-f")
Jitter = Annotated[Finite, Field(ge=0, le=10)]
Probability = Annotated[Finite, Field(ge=0, le=1)]
HueShift = Annotated[Finite, Field(ge=0, le=0.5)]
ColorJitter = Annotated[tuple[Jitter, Jitter, Jitter, HueShift], Field(strict=False)]
Alpha = Annotated[Finite, Field(ge=0, le=100)]
Side = Annotated[int, Field(ge=1, le=2**14)]
Text = Annotated[
    str, Field(pattern=r"^[^\x00]*$", description="text (in quotes if it looks like a number), without NUL")
]
Interpolation = Literal["bilinear", "bicubic"]


class Data(Section):
    """Which images, how long their tail is, and how they are augmented."""

    name: Literal[
        "digits",
        "cifar10",
        "cifar100",
        "tiny-imagenet",
        "ictext",
        "ictext-sample",
        "folder",
        "parquet",
        "manifest",
        "python",
    ]
    """The source; its reader decides the layout expected below `root`."""
    root: Annotated[Text | None, Role.PLACE] = None
    """Directory of the data, or the table of a manifest; null where no files are needed."""
    images: Annotated[Annotated[str, Sum] | None, Role.ADDED] = None
    """Sum of all images and labels: filled in where the images are your own, and checked if it is given."""
    download: Annotated[bool, Role.LOADING] = False
    """Whether to download the original archive into `root` if it is missing."""
    imbalance_factor: Annotated[Finite, Field(ge=1)] | None = None
    """Largest over smallest class count; null takes the data unchanged."""
    profile: Literal["exp", "step"] = "exp"
    """How the class counts fall: exponentially, or in one step."""
    seed: Seed = 0
    """Of the long-tailed subset and of the splits."""
    validation: Annotated[Finite, Field(ge=0, lt=1)] = 0.0
    """Fraction of each training class held out for validation where the data have no validation set."""
    test_split: Annotated[str | None, Role.ADDED] = None
    """Name of the split to test on, e.g. val; null: the test set, or the validation set where it is alone."""
    test_fraction: Fraction = 0.2
    """Fraction of each class held out for testing where the data have no test set."""
    cut: Annotated[tuple[Count, Count, Count], Field(strict=False)] | None = None
    """Numbers of classes in head, middle and tail; null cuts into thirds."""
    image_column: str | None = None
    """Column of the images in Parquet files, of their paths in a manifest; null detects it."""
    label_column: str | None = None
    """Column of the labels in Parquet files or a manifest; null detects it."""
    split_column: Annotated[str | None, Role.ADDED] = None
    """Column of the splits in a manifest; null detects it."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """What to do about an image that cannot be decoded."""
    in_memory: Annotated[Literal["auto", True, False], Role.LOADING, Role.NEUTRAL] = "auto"
    """Whether to hold all decoded images in memory; auto: if they take at most a third of it."""
    workers: Annotated[Annotated[int, Field(ge=0, le=256)] | None, Role.LOADING, Role.NEUTRAL] = None
    """Processes that decode images not held in memory; null: one per core, at most 8; 0: the main one."""
    cache: Annotated[bool, Role.LOADING, Role.NEUTRAL] = True
    """Whether to keep decoded images on disk, so that the same files open faster next time."""
    image_size: Side | None = None
    """Side of the network's input in pixels; null takes the images' own, model what the network wants."""
    eval_resize: Side | None = None
    """Short side in pixels before the centre crop in evaluation; model: what the network wants."""
    interpolation: Annotated[Interpolation, Role.ADDED] = "bilinear"
    """Filter with which images are resized, antialiased; model: the one that the network wants."""
    augment: Annotated[tuple[AugmentStep, ...], Field(strict=False)] = ()
    """Random changes of each training image; their order is fixed, whatever the order here."""
    padding: Annotated[int, Field(ge=1, le=2**10)] = 4
    """Zero pixels added on each side before a pad-crop."""
    randaugment_ops: Annotated[Annotated[int, Field(ge=1, le=10)], Role.ADDED] = 2
    """Operations on each image in randaugment, one after the other."""
    randaugment_magnitude: Annotated[Annotated[int, Field(ge=0, le=30)], Role.ADDED] = 9
    """Strength of these operations, 0 to 30."""
    color_jitter: Annotated[ColorJitter, Role.ADDED] = (0.4, 0.4, 0.4, 0.1)
    """Of color-jitter: the most that brightness, contrast and saturation change, and the shift of the hue."""
    color_jitter_probability: Annotated[Probability, Role.ADDED] = 1.0
    """Probability with which color-jitter changes an image."""
    grayscale_probability: Annotated[Probability, Role.ADDED] = 0.2
    """Probability with which grayscale takes the colours out of an image."""
    cutout_size: Annotated[Side, Role.ADDED] = 16
    """Side in pixels of the square that cutout blackens."""
    erasing_probability: Annotated[Probability, Role.ADDED] = 0.25
    """Probability with which random-erasing erases a box of an image."""
    mixup: Annotated[Alpha, Role.ADDED] = 0.0
    """α of mixup: an image is mixed with another by λ from Beta(α, α), and so are their labels; 0: off."""
    cutmix: Annotated[Alpha, Role.ADDED] = 0.0
    """α of CutMix: a box of another image covers 1 − λ of the area; with mixup, each for half the batches."""
    mean: Annotated[tuple[Finite, ...], Channels] = (0.5,)
    """Of each channel of images in [0, 1], or one for all, subtracted first; model: the network's own."""
    std: Annotated[tuple[Positive, ...], Channels] = (0.25,)
    """Of each channel, or one for all; the network's input is divided by it; model: the network's own."""

    @property
    def mixes(self) -> bool:
        """Whether images are mixed, so that losses take probabilities instead of labels."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def mix(self) -> Mix | None:
        """How images are mixed where the method does not say it, None where they are not."""
        return Mix(self.mixup, self.cutmix) if self.mixes else None

    def disagreements(self) -> Iterator[str]:
        yield from opposed_steps(self.augment, "augment")
        if len(self.mean) != len(self.std):
            yield f"mean has {len(self.mean)} channels and std {len(self.std)}"
        if self.eval_resize is not None and (self.image_size is None or self.eval_resize < self.image_size):
            yield "eval_resize needs image_size, and not less than it"


class Model(Section):
    """The network: `resnet8|20|32|44|56` for CIFAR, or `timm/NAME`."""

    name: str = Field(
        default="resnet32",
        pattern=r"^(resnet(8|20|32|44|56)|timm/[A-Za-z0-9_.\-]+)$",
        description="resnet8, resnet20, resnet32, resnet44, resnet56 or timm/NAME",
    )
    """The architecture."""
    pretrained: bool = False
    """Whether to begin with the weights that timm has for this name on the Hugging Face hub."""
    weights: Annotated[Text | None, Role.ADDED, Role.PLACE] = None
    """File, directory or run with the weights to begin with, in place of those of the hub."""
    weights_sum: Annotated[Annotated[str, Sum] | None, Role.ADDED] = None
    """Sum of what is in that file: filled in, and checked if it is given."""
    head: Literal["auto", "linear", "cosine"] = "auto"
    """The classifier; auto: cosine where the method is defined on one (LDAM), else linear."""
    head_scale: Annotated[Positive, Role.ADDED] = 1.0
    """s by which a cosine head multiplies; methods defined on such a head have their own, `method.scale`."""
    head_init: Annotated[Literal["random", "class-means"], Role.ADDED] = "random"
    """How a cosine head begins: at random, or with the class means of the training images' features."""
    adapt: Annotated[Literal["full", "norm", "bias", "adaptformer", "lora"], Role.ADDED] = "full"
    """What of the backbone is trained: all, its norms, its biases, or adapters in a timm/vit."""
    adapter_dim: Annotated[Annotated[int, Field(ge=1, le=2**14)] | None, Role.ADDED] = None
    """Width of adaptformer, rank of lora; null: 2^⌊log₂(C / 2L)⌋ for C classes and L layers, at least 1."""
    lora_alpha: Annotated[Positive, Role.ADDED] = 1.0
    """α of lora: what it adds to the weights is multiplied by α over the rank."""

    def disagreements(self) -> Iterator[str]:
        if self.pretrained and not self.name.startswith("timm/"):
            yield f"pretrained weights exist for timm/NAME only, not for {self.name}"
        inserts = self.adapt in {"adaptformer", "lora"}
        if inserts and not self.name.startswith("timm/"):
            yield f"adapt {self.adapt} needs a timm/vit, and name is {self.name}: full, norm and bias suit it"
        if self.adapter_dim is not None and not inserts:
            yield f"adapter_dim is a setting of adaptformer and lora, and adapt is {self.adapt}"
        if not self.has_default("lora_alpha") and self.adapt != "lora":
            yield f"lora_alpha is a setting of lora, and adapt is {self.adapt}"

    @property
    def untrained(self) -> Self:
        """The same network, as it begins without any weights."""
        return self.model_copy(update={"pretrained": False, "weights": None, "weights_sum": None})


class Recipe(Section):
    """All settings of one run, with every default filled in."""

    name: Annotated[str, Role.COLUMN] = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}$",
        description="at most 100 of A-Z a-z 0-9 . _ -, first a letter or digit; default: the file's name",
    )
    """Name of the recipe, and of the directory of its runs."""
    data: Data
    model: Model = Model()
    method: MethodSettings = CrossEntropy()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    trainer: Trainer = Trainer()

    def disagreements(self) -> Iterator[str]:
        method = f"method {self.method.name}"
        if self.method.head == "cosine" and self.model.head == "linear":
            yield f"{method} diverges on a linear head: set model.head to auto or cosine"
        if self.model.adapt != "full" and self.schedule.frozen_epochs == "all":
            yield "model.adapt has nothing to train with schedule.frozen_epochs=all: set model.adapt to full"
        for key in ("head_scale", "head_init"):
            if self.head == "linear" and not self.model.has_default(key):
                yield f"model.{key} belongs to a cosine head: set model.head to cosine"
        if self.method.prior_bias and self.model.head == "cosine":
            yield f"{method} needs a head with a bias: set model.head to auto or linear"
        if self.method.linear_only and self.model.head == "cosine":
            yield f"{method} changes weights and biases of a linear head: set model.head to auto or linear"
        if isinstance(self.method, Deferred) and self.schedule.epochs < 2:
            yield f"{method} has two phases: set schedule.epochs to 2 or more"
        if self.method.views and self.data.mixes:
            yield f"{method} compares views of an image, unmixed: set data.mixup and data.cutmix to 0"
        if self.method.views and self.schedule.frozen_epochs == "all":
            yield f"{method} trains the backbone, by views of each image: set schedule.frozen_epochs to 0"
        if self.method.mixes and self.data.mixes:
            yield f"{method} mixes images by itself: set data.mixup and data.cutmix to 0"

    @property
    def epochs(self) -> int:
        """Length of the run: the epochs of the schedule, and those that the method has after them.

        >>> Recipe(name="own", data=Data(name="digits"), schedule=Schedule(epochs=30)).epochs
        30
        """
        return self.schedule.epochs + self.method.extra_epochs(self.schedule.epochs)

    @property
    def head(self) -> Head:
        """The classifier head with `auto` resolved."""
        return self.method.head if self.model.head == "auto" else self.model.head

    @property
    def head_scale(self) -> float:
        """What a cosine head multiplies by: 1 where the loss of the method has a scale of its own."""
        return 1.0 if self.method.head == "cosine" else self.model.head_scale

    @property
    def augments(self) -> bool:
        """Whether chance changes the training images."""
        return bool(self.data.augment) or self.data.mixes or self.method.mixes

    @property
    def identity(self) -> dict[str, Any]:
        """Every setting that can change a bit of the result, for JSON: equal identities are the same run.

        Where the images lie is null in it, and where the weights lie is no part of it.
        """
        settings = self.model_dump(mode="json")
        for key in keys_with(Role.NEUTRAL):
            section, _, name = key.partition(".")
            del settings[section][name]
        for key in keys_with(Role.ADDED, method=type(self.method)):
            section, _, name = key.partition(".")
            if getattr(self, section).has_default(name):
                settings[section].pop(name, None)
        for key in keys_with(Role.PLACE):
            section, _, name = key.partition(".")
            if key in keys_with(Role.ADDED):
                settings[section].pop(name, None)
            else:
                settings[section][name] = None
        return settings

    @property
    def by_key(self) -> dict[str, Any]:
        """Every setting by its dotted key, in the order of the schema."""
        return by_dotted_key(self.model_dump(mode="json"))

    @property
    def config_hash(self) -> str:
        """sha256 of the identity; its first 8 digits are in the name of the run directory."""
        return json_digest(self.identity)

    @property
    def earlier_identity(self) -> dict[str, Any]:
        """The `identity` of earlier versions, which counted the text of `data.root` and no images."""
        identity = self.with_images(None).identity
        identity["data"]["root"] = self.data.root
        return identity

    @property
    def earlier_hash(self) -> str:
        """The `config_hash` of earlier versions."""
        return json_digest(self.earlier_identity)

    def with_images(self, images: str | None) -> Self:
        """The recipe with another `data.images`."""
        return self._with_data(images=images)

    def with_root(self, root: str | None) -> Self:
        """The recipe with another `data.root`."""
        return self._with_data(root=root)

    def with_weights_sum(self, weights_sum: str) -> Self:
        """The recipe with another `model.weights_sum`."""
        return self.model_copy(update={"model": self.model.model_copy(update={"weights_sum": weights_sum})})

    def _with_data(self, **values: str | None) -> Self:
        return self.model_copy(update={"data": self.data.model_copy(update=values)})


SECTIONS: dict[str, type[Section]] = {
    section.__name__.lower(): section for section in (Data, Model, Optimizer, Schedule, Trainer)
}
"""The sections of a recipe but `method`, whose keys depend on its name."""


@cache
def keys_with(*roles: Role, method: type[Method] = Method) -> frozenset[str]:
    """The dotted keys of a recipe that are marked with any of these roles, those of its method among them.

    >>> sorted(keys_with(Role.COLUMN))
    ['method.name', 'name', 'schedule.epochs', 'trainer.seed']
    """
    sections: dict[str, type[Section]] = {"": Recipe, "method": method, **SECTIONS}
    return frozenset(
        f"{part}.{name}" if part else name
        for part, section in sections.items()
        for name, field in section.model_fields.items()
        if any(role in field.metadata for role in roles)
    )
