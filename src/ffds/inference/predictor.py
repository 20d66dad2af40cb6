"""A finished run as an object that names the classes of images: `ffds.load`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ffds.data.decode import Stored, image_threads, refusing_bombs
from ffds.errors import InputError, note
from ffds.inference.adjustment import FILE, Adjusted, Adjustment, saved_adjustment
from ffds.inference.images import AnyImage, images_in, pixels_or_fault, stored_like
from ffds.inference.network import class_names, kept_checkpoint, trained_network
from ffds.inference.views import VIEWS, MeanOfViews, TestTimeAugmentation, ViewsTransform
from ffds.recipes.schema import Recipe
from ffds.run_directory import Run, open_run
from ffds.training.backend.devices import precision_flags
from ffds.training.evaluate import BATCH_SIZE

__all__ = ["UNKNOWN", "Prediction", "Predictor", "load"]

UNKNOWN = "unknown"
"""The label of an image whose most probable class is less probable than the threshold."""
_AUTOCAST = {"bf16": torch.bfloat16, "16": torch.float16}
Item = TypeVar("Item", bound=AnyImage)


class Prediction(NamedTuple):
    """The label of an image, the probability of its most probable class, and the `top_k` most probable ones.

    `top` are pairs (class name, probability), the most probable first. The label is that of the first, or
    ``unknown`` where its probability is below the threshold.
    """

    label: str
    probability: float
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Predictor:
    """A trained network with its preprocessing and class names; it needs no data and no training.

    Attributes:
        run: the run directory it was loaded from.
        recipe: that of the run.
        class_names: in label order.
        class_counts: training images of each class, in label order.
        network: images as `preprocess` makes them, float32 (N, C, h, w) → logits (N, classes).
        stored: the square of pixels that every image is brought to before it is preprocessed.
        device: where the network is.
        adjustment: what `ffds adjust` saved beside the run, applied to the logits; None: nothing is.
        augmentation: ``none``, or views of each image (``flip``, ``crops``) of whose probabilities the mean
            is taken.
    """

    run: Run
    recipe: Recipe
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    network: nn.Module
    stored: Stored
    device: torch.device
    adjustment: Adjustment | None = None
    augmentation: TestTimeAugmentation = "none"

    @property
    def scored(self) -> nn.Module:
        """The network with the adjustment: preprocessed images → logits (N, classes)."""
        if self.adjustment is None:
            return self.network
        bias = self.adjustment.bias(self.class_names, self.class_counts)
        return Adjusted(self.network, self.adjustment.temperature, bias).to(self.device).eval()

    def predict(
        self,
        images: AnyImage | Sequence[AnyImage],
        *,
        top_k: int = 1,
        threshold: float = 0.0,
        batch_size: int = BATCH_SIZE,
    ) -> Any:
        """The labels of images by name, with probabilities.

        Args:
            images: one image or a list of them, of any sizes: paths, images of Pillow, arrays uint8 (H, W) or
                (H, W, C), tensors (H, W) or (C, H, W), uint8 or floating-point from 0 to 1. An array or
                tensor with four dimensions is a list.
            top_k: how many of the most probable classes `Prediction.top` has.
            threshold: least probability, 0 to 1, below which the label is ``unknown``.
            batch_size: images that the network sees at a time.

        Returns:
            A `Prediction` for one image, a list of them in the same order for a list.

        Raises:
            InputError: an image cannot be read, or an argument is out of range.
        """
        top_k = checked_top_k(top_k, threshold)
        several = images_in(images)
        one: Any = images
        rows = self._readable([one] if several is None else several, batch_size)
        found = [self.prediction(row, top_k, threshold) for row in rows]
        return found[0] if several is None else found

    def probabilities(self, images: AnyImage | Sequence[AnyImage], *, batch_size: int = BATCH_SIZE) -> Tensor:
        """The probability of every class, float32 (N, classes) on the CPU; (classes,) for one image.

        Raises:
            InputError: an image cannot be read.
        """
        several = images_in(images)
        one: Any = images
        rows = list(self._readable([one] if several is None else several, batch_size))
        if several is None:
            return rows[0]
        return torch.stack(rows) if rows else torch.empty(0, len(self.class_names))

    def prediction(self, probabilities: Tensor, top_k: int = 1, threshold: float = 0.0) -> Prediction:
        """Names for the probabilities (classes,) of one image."""
        values, labels = probabilities.topk(min(top_k, len(self.class_names)))
        pairs = zip(labels.tolist(), values.tolist(), strict=True)
        top = tuple((self.class_names[label], value) for label, value in pairs)
        name, best = top[0]
        return Prediction(name if best >= threshold else UNKNOWN, best, top)

    def stream(
        self, images: Iterable[Item], *, batch_size: int = BATCH_SIZE
    ) -> Iterator[tuple[Item, Tensor | str]]:
        """Each image with the probabilities (classes,) of its classes, or with what is wrong with it.

        In the order given; only two batches of images are in memory, of which one is decoded in threads
        while the network sees the other.
        """
        if batch_size < 1:
            raise InputError("a batch has at least one image", got=batch_size)
        left = iter(images)
        read = partial(pixels_or_fault, stored=self.stored)
        with image_threads() as threads:
            batch = list(islice(left, batch_size))
            with refusing_bombs():
                pixels = list(threads.map(read, batch))
            while batch:
                # Not entered while the caller has the word: the filter of warnings is that of the process.
                with refusing_bombs():
                    following = list(islice(left, batch_size))
                    decoding = threads.map(read, following)
                    rows = self._rows(pixels)
                    pixels = list(decoding)
                yield from zip(batch, rows, strict=True)
                batch = following

    def preprocess(self, images: Tensor) -> Tensor:
        """Stored images uint8 (N, H, W, C) as the network takes them, float32 (N, C, h, w).

        With an augmentation the V views of all images, (V · N, C, h, w), one view behind the other.
        """
        return ViewsTransform(self.recipe.data, self.augmentation)(images)

    def _readable(self, images: Sequence[AnyImage], batch_size: int) -> Iterator[Tensor]:
        for place, (image, row) in enumerate(self.stream(images, batch_size=batch_size)):
            if isinstance(row, str):
                where = image if isinstance(image, str | Path) else f"image {place}"
                raise InputError("an image cannot be used", where=where, got=row)
            yield row

    def _rows(self, pixels: Sequence[NDArray[np.uint8] | str]) -> list[Tensor | str]:
        """The probabilities of each image, those of one size computed together, or what is wrong with it."""
        rows: list[Tensor | str] = [fault if isinstance(fault, str) else "" for fault in pixels]
        places: dict[tuple[int, ...], list[int]] = {}
        for place, image in enumerate(pixels):
            if not isinstance(image, str):
                places.setdefault(image.shape, []).append(place)
        for alike in places.values():
            stacked = torch.from_numpy(np.stack([np.asarray(pixels[place]) for place in alike]))
            found = self._probabilities(stacked.to(self.device)).cpu()
            for place, row in zip(alike, found, strict=True):
                rows[place] = row if bool(row.isfinite().all()) else "the network's output is not finite"
        return rows

    def _probabilities(self, images: Tensor) -> Tensor:
        with precision_flags(self.recipe.trainer), torch.inference_mode(), self._autocast():
            views = VIEWS[self.augmentation]
            network = self.scored if views == 1 else MeanOfViews(self.scored, views)
            logits: Tensor = network(self.preprocess(images))
        return logits.float().softmax(dim=1)

    def _autocast(self) -> AbstractContextManager[Any]:
        kind = _AUTOCAST.get(self.recipe.trainer.precision)
        return nullcontext() if kind is None else torch.autocast(self.device.type, dtype=kind)


def load(
    run: str | Path | Run,
    *,
    device: str | torch.device | None = None,
    adjust: bool = True,
    augmentation: TestTimeAugmentation = "none",
) -> Predictor:
    """The trained network of a run, ready to predict, with its preprocessing and class names.

    Args:
        run: a run directory, finished or not, such as ``runs/RECIPE/METHOD/seed0-1a2b3c4d``.
        device: such as ``cpu`` or ``cuda:1``; None takes a GPU if there is one, unless the run was trained
            with ``trainer.accelerator=cpu``.
        adjust: whether to apply what `ffds adjust` saved beside the run, if anything; a note says so.
        augmentation: ``flip`` (each image and its mirror image) or ``crops`` (its centre and four corners):
            the mean of their probabilities counts; ``none``: the image alone.

    Raises:
        InputError: there is no such run, it has no checkpoint that can be read, or the device is not there.

    >>> predictor = ffds.load("runs/digits/d-ffds/seed0-1a2b3c4d")     # doctest: +SKIP
    >>> predictor.predict("three.png").label                           # doctest: +SKIP
    '3'
    """
    run = run if isinstance(run, Run) else open_run(run)
    recipe, checkpoint = run.recipe, kept_checkpoint(run)
    if not run.done:
        epoch, epochs = checkpoint.state["reached"]["epoch"], recipe.epochs
        note(f"note: {run.path} is not finished: this is its network after {epoch} of {epochs} epochs")
    if augmentation not in VIEWS:
        raise InputError("no such augmentation", got=augmentation, allowed=", ".join(VIEWS))
    adjustment = saved_adjustment(run, checkpoint) if adjust else None
    if adjustment is not None:
        note(f"note: probabilities are adjusted as {run.path / FILE} says: {adjustment}")
    there = usable_device(device, recipe.trainer.accelerator)
    network, channels = trained_network(recipe, checkpoint)
    if recipe.trainer.channels_last:
        network.to(memory_format=torch.channels_last)
    return Predictor(
        run=run,
        recipe=recipe,
        class_names=tuple(class_names(checkpoint)),
        class_counts=tuple(checkpoint.identity["class_counts"]),
        network=network.to(there).eval(),
        stored=stored_like(run, channels),
        device=there,
        adjustment=adjustment,
        augmentation=augmentation,
    )


def usable_device(asked: str | torch.device | None, accelerator: str = "auto") -> torch.device:
    """The device asked for, which has to be there; without one a GPU if there is one, else the CPU."""
    if asked is None:
        mps = torch.backends.mps.is_available()
        found = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
        return torch.device("cpu" if accelerator == "cpu" else found)
    try:
        device = torch.device(asked)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        got = f"{asked}: {str(error).splitlines()[0]}"
        raise InputError("there is no such device", got=got, allowed="cpu, cuda, cuda:N, mps") from error
    return device


def checked_top_k(top_k: int, threshold: float) -> int:
    """`top_k`, once it and the threshold are in range."""
    if top_k < 1:
        raise InputError("at least one class is named", where="top_k", got=top_k)
    if not 0 <= threshold <= 1:
        raise InputError("a threshold is a probability", where="threshold", got=threshold, allowed="0 to 1")
    return top_k
