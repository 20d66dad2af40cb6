"""A network evaluated on a set of images: scores, and a prediction for each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from ffds.data.dataset import Split
from ffds.data.loader import EvalBatches
from ffds.errors import printable
from ffds.evaluation.counts import Evaluation
from ffds.evaluation.measures import Scores
from ffds.files import csv_text, write_bytes, write_text
from ffds.recipes.schema import Data
from ffds.training.backend.cuda_graphs import CudaGraphs

__all__ = ["Evaluated", "Predictions", "eval_batches", "evaluate"]

BATCH_SIZE = 250
"""Divides the 10,000 test images of CIFAR and Tiny ImageNet, so that a compiled network sees one shape."""


_NUMBERS = ("index", "label", "prediction", "confidence", "label_probability")


@dataclass(frozen=True)
class Predictions:
    """For each of N images its place in the set, label, predicted class, and both classes' probabilities.

    The names of the classes and of the N files are written beside them, where they are known.
    """

    index: NDArray[np.int64]
    label: NDArray[np.int64]
    prediction: NDArray[np.int64]
    confidence: NDArray[np.float32]
    label_probability: NDArray[np.float32]
    class_names: Sequence[str] | None = field(default=None, kw_only=True)
    files: Sequence[Path] | None = field(default=None, kw_only=True)

    def write(self, path: Path) -> None:
        """Write a Parquet file, or a CSV file where the name ends in ``.csv``, replacing an earlier one."""
        order = np.argsort(self.index)
        columns: dict[str, list[Any]] = {name: getattr(self, name)[order].tolist() for name in _NUMBERS}
        if self.class_names is not None:
            names = {-1: None, **dict(enumerate(map(printable, self.class_names)))}  # -1: not finite
            columns |= {f"{one}_name": [names[c] for c in columns[one]] for one in ("label", "prediction")}
        if self.files is not None:
            columns["file"] = [printable(str(self.files[place])) for place in columns["index"]]
        if path.suffix.lower() == ".csv":
            rows = zip(*columns.values(), strict=True)
            write_text(path, csv_text(columns, rows))
            return
        content = pa.BufferOutputStream()
        types = {name: pa.from_numpy_dtype(getattr(self, name).dtype) for name in _NUMBERS}
        table = {name: pa.array(column, types.get(name, pa.string())) for name, column in columns.items()}
        pq.write_table(pa.table(table), content)
        write_bytes(path, content.getvalue().to_pybytes())


class Evaluated(NamedTuple):
    """What a network does on a set of images, over all ranks."""

    scores: Scores
    predictions: Predictions


def eval_batches(
    fabric: Fabric, split: Split, data: Data, transform: Callable[[Tensor], Tensor] | None = None
) -> EvalBatches:
    """The batches of this rank for `evaluate`, resized and normalised as the recipe or `transform` says."""
    ranks = {"rank": fabric.global_rank, "world_size": fabric.world_size}
    return EvalBatches(split, data, batch_size=BATCH_SIZE, device=fabric.device, transform=transform, **ranks)


def evaluate(
    fabric: Fabric,
    model: nn.Module,
    batches: EvalBatches,
    class_counts: Sequence[int],
    cut: tuple[int, int, int] | None,
    graphs: CudaGraphs | None = None,
    poll: Callable[[], None] = lambda: None,
) -> Evaluated:
    """Scores and predictions of a model on a set, each image counted once whatever the number of ranks.

    The training images of each class and the cut into head, middle and tail (None: thirds) decide the
    groups. `poll` is called after each batch and may raise to stop.
    """
    graphs = graphs or CudaGraphs(on=False)

    def forward(images: Tensor) -> Tensor:
        with fabric.autocast():
            logits: Tensor = model(images)
        return logits

    evaluation = Evaluation(len(class_counts), class_counts, cut, fabric.device)
    rows: list[tuple[Tensor, ...]] = []
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for batch in batches:
                logits = graphs("evaluation", forward, batch.images)
                evaluation.update(logits, batch.labels)
                probability = logits.float().softmax(dim=1)
                confidence, prediction = probability.max(dim=1)
                of_label = probability.gather(1, batch.labels.unsqueeze(1)).squeeze(1)
                rows.append((batch.indices, batch.labels, prediction, confidence, of_label))
                poll()
    finally:
        model.train(was_training)
    return Evaluated(evaluation.compute(), _gather_rows(fabric, rows))


def _gather_rows(fabric: Fabric, rows: list[tuple[Tensor, ...]]) -> Predictions:
    columns = [torch.cat(parts).cpu().numpy() for parts in zip(*rows, strict=True)]
    own = Predictions(*columns) if columns else None
    parts = [own]
    if fabric.world_size > 1:
        parts *= fabric.world_size
        torch.distributed.all_gather_object(parts, own)
    # A rank may have no batch at all.
    filled = [[getattr(part, name) for name in _NUMBERS] for part in parts if part is not None]
    return Predictions(*(np.concatenate(column) for column in zip(*filled, strict=True)))
