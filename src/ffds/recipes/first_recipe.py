"""A first recipe for images of the user's own, as commented text: what fits, and why, in plain words."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ffds.recipes.yaml_loader import dump_yaml

__all__ = ["OwnImages", "first_recipe", "recipe_name"]

Line = tuple[str, object, str]
"""A key, its value, and why it has that value."""

LAYOUTS = {
    "folder": "one directory for each class",
    "parquet": "Parquet files in the layout of the Hugging Face hub",
    "manifest": "a table that names each image and its class",
}
LEAST_VALIDATION = 10
"""With fewer images held out than this, the best epoch is not chosen by them."""


@dataclass(frozen=True)
class OwnImages:
    """What is known of the images.

    Attributes:
        source: value of `data.name`.
        root: value of `data.root`.
        counts: training images of each class that can be read, those included that are to be held out.
        tested: whether they bring a test set of their own.
        validated: whether they bring a validation set of their own.
        short_side: median short side in pixels.
        unreadable: how many images cannot be read.
    """

    source: str
    root: str
    counts: Sequence[int]
    tested: bool
    validated: bool
    short_side: int
    unreadable: int

    @property
    def total(self) -> int:
        """All training images."""
        return sum(self.counts)

    @property
    def tiny(self) -> bool:
        """Whether they are too small for a network that was pretrained on large images."""
        return self.short_side < 48

    @property
    def validation(self) -> float:
        """Fraction of each training class to hold out: so much that it says something, else none."""
        for fraction in () if self.validated else (0.1, 0.2):
            if sum(round(count * fraction) for count in self.counts if count > 1) >= LEAST_VALIDATION:
                return fraction
        return 0.0


def recipe_name(text: str) -> str:
    """The text as the name of a recipe: at most 100 letters, digits, dots, hyphens and underscores.

    >>> recipe_name("my photos (2)"), recipe_name("犬")
    ('my-photos-2', 'my-images')
    """
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-._")[:100] or "my-images"


def first_recipe(images: OwnImages, *, name: str, file: str, gpu: bool) -> str:
    """The text of a recipe that fine-tunes a network on these images.

    Args:
        images: what is known of them.
        name: of the recipe.
        file: where it will be written, for the commands in its header.
        gpu: whether it is to be trained on a GPU.
    """
    classes, largest, smallest = len(images.counts), max(images.counts), min(images.counts)
    command = f"ffds train {shlex.quote(file)}"
    header = [
        f"{name}: {images.total:,} training images of {classes:,} classes, {largest:,} to {smallest:,} each",
        "",
        f"Train     {command}",
        f"Try       {command} schedule.epochs=2     # does everything work?",
        f"Compare   {command} method=ce             # plain cross-entropy",
        f"Look      ffds show {shlex.quote(file)}, and ffds data info {shlex.quote(file)}",
    ]
    sections = {
        "data": _data(images, gpu),
        "model": _model(images, gpu),
        "optimizer": _optimizer(images),
        "schedule": _schedule(images),
        "trainer": _trainer(images, gpu),
    }
    lines = [f"# {line}".rstrip() for line in header]
    lines += ["", _line(("name", name, f"the runs are written to runs/{name}/"))]
    for section, settings in sections.items():
        lines += ["", f"{section}:", *(f"  {_line(setting)}" for setting in settings)]
    return "\n".join([*lines, "", *_method(images)]) + "\n"


def _data(images: OwnImages, gpu: bool) -> Iterator[Line]:
    yield "name", images.source, LAYOUTS[images.source]
    yield "root", images.root, "as seen from the directory in which ffds is started"
    if images.unreadable:
        yield (
            "on_bad_image",
            "skip",
            f"{images.unreadable:,} images cannot be read; stop would end with the first",
        )
    if not images.tested:
        yield "test_fraction", 0.2, "no test set is there: a fifth of each class is kept out of training"
    if images.validation:
        why = "of each training class, held out to judge epochs without the test set"
        yield "validation", images.validation, why
    elif not images.validated:
        yield "validation", 0.0, "too few images to hold any out: no epoch can be chosen without the test set"
    if images.tiny:
        yield "image_size", 32, f"the images are tiny: their median short side is {images.short_side} pixels"
        yield (
            "augment",
            ["pad-crop", "hflip"],
            "small shifts, mirroring; drop hflip where left and right matter",
        )
        yield "mean", [0.5, 0.5, 0.5], "of red, green and blue"
        yield "std", [0.25, 0.25, 0.25], "of red, green and blue"
        return
    side, why = _side(images, gpu)
    yield "image_size", side, why
    yield "eval_resize", "model", "in evaluation the centre is cut from images of the size the network wants"
    yield "interpolation", "model", "likewise the filter with which images are resized"
    yield "mean", "model", "of the images that the network was pretrained on"
    yield "std", "model", "likewise"
    yield (
        "augment",
        ["resized-crop", "hflip", "trivialaugment"],
        "random boxes, mirroring, one random change of shape or colour; drop what changes the class",
    )


def _side(images: OwnImages, gpu: bool) -> tuple[int, str]:
    """Side of the network's input, and why."""
    if images.short_side < 160:
        return 128, f"the median short side is {images.short_side} pixels: 224 would only cost time"
    if not gpu:
        return 128, "no GPU here: 224 sees more detail, in three times as many pixels"
    return 224, "usual for pretrained networks; 128 has a third of the pixels"


def _model(images: OwnImages, gpu: bool) -> Iterator[Line]:
    if images.tiny:
        yield "name", "resnet32", "made for 32 x 32 pixels; networks pretrained on photos need larger images"
        return
    name, why = "timm/convnext_tiny", "for many images on a GPU"
    if not gpu:
        name, why = "timm/resnet18", "small enough to train without a GPU"
    elif images.total < 1_000:
        name, why = "timm/resnet18", "a small network for few images"
    elif images.total < 10_000:
        name, why = "timm/resnet50", "of middle size, for thousands of images"
    yield "name", name, f"{why}; timm/NAME is any other network of timm"
    why = "weights downloaded at the first run; without a network, instead of this: weights: FILE.safetensors"
    yield "pretrained", True, why


def _optimizer(images: OwnImages) -> Iterator[Line]:
    if images.tiny:
        yield "name", "sgd", "usual for a network that starts from nothing"
        yield "lr", 0.1, "likewise"
        yield "momentum", 0.9, "likewise"
        yield "weight_decay", 5e-4, "likewise"
        return
    yield "name", "adamw", "needs less tuning than sgd to fine-tune a network"
    yield "lr", 3e-4, "small, so that the pretrained features survive; without them try 1e-3"
    yield "head_lr", 1e-3, "larger: the classifier starts from nothing"
    yield "layer_decay", 0.75, "of the rate of the layer above: the first layers need the least change"
    yield "weight_decay", 0.05, "usual with adamw"


def _schedule(images: OwnImages) -> Iterator[Line]:
    steps = ((500, 60), (2_000, 40), (10_000, 30), (50_000, 20))
    epochs = next((number for most, number in steps if images.total < most), 10)
    why = f"for {images.total:,} training images: the fewer, the more epochs"
    if images.tiny:
        epochs, why = 3 * epochs, f"{why}; three times as many as with pretrained weights"
    yield "epochs", epochs, why
    yield "warmup", 3, "epochs in which the learning rate rises, at most a tenth of all"
    yield "shape", "cosine", "then it falls to nearly 0 along a cosine"


def _trainer(images: OwnImages, gpu: bool) -> Iterator[Line]:
    batch = 64 if images.total >= 1_000 else 32 if images.total >= 200 else 16
    yield "batch_size", batch, "images of a step; halve it where the memory runs out"
    if not images.tiny:
        yield "clip_norm", 1.0, "longer gradients are shortened to this, which steadies small batches"
    if images.validated or images.validation:
        yield "keep", "best", "the network of the best epoch on the validation images is the result"
        yield "best_by", "balanced_accuracy", "in which every class counts the same, however rare"
    if gpu:
        yield "precision", "bf16", "half the bits for the network; 32 on a GPU that lacks it"


def _method(images: OwnImages) -> Iterator[str]:
    classes = len(images.counts)
    groups = min(classes, 3) if classes < 10 else 5 if classes < 50 else 10
    even = max(images.counts) < 2 * min(images.counts)
    why = "classes of like size" if even else "cross-entropy, then FFDS for the rare classes"
    yield _line(("method", "ce" if even else "d-ffds", f"{why}; the README lists all methods"))
    yield ""
    yield "methods:  # settings of methods that can be chosen, as with method=ffds on the command line"
    yield "  ffds: &ffds  # d-ffds takes the same"
    yield "    " + _line(
        ("num_groups", groups, f"of classes alike in number of images, for {classes:,} classes")
    )
    yield "    " + _line(("label_smoothing", 0.1, "as in the paper"))
    yield "  d-ffds:"
    yield "    <<: *ffds"
    yield "    " + _line(
        ("start", 0.33, "of the epochs are cross-entropy, as in the paper with pretrained weights")
    )


def _line(setting: Line) -> str:
    key, value, why = setting
    text = dump_yaml({key: value}).strip()
    return f"{text}  # {why}"
