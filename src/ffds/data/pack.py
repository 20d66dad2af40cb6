"""Writes a long-tailed dataset as a Parquet pack, which this package and Hugging Face's `datasets` read."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from ffds.data.decode import image_threads
from ffds.data.long_tail import tail_ranks, tail_rows
from ffds.data.open import open_source
from ffds.data.source import Labelled
from ffds.data.storage import read_images
from ffds.errors import InputError
from ffds.recipes.schema import Data

__all__ = ["write_pack"]

ROW_GROUP = 1000


def write_pack(data: Data, directory: Path) -> list[Path]:
    """Write the training images that `data` keeps, and each other split; returns the files.

    Columns: `image` (lossless WebP of the stored pixels), `label`, `index` (place in the original order)
    and, in the train file, `lt_rank` (place in its class after the reference shuffle). Read with the same
    settings, the pack gives the same arrays; it also serves every larger imbalance factor. A validation set
    that the data do not bring is not cut here: it is cut when the pack is read.

    Raises:
        InputError: `directory` already holds a pack or cannot be written, or the data cannot be opened.
    """
    existing = sorted(directory.glob("*.parquet"))
    if existing:
        got, fix = f"{existing[0].name} is there", "give another directory, or remove this one"
        raise InputError("a pack is never overwritten", where=directory, got=got, fix=fix)
    source = open_source(data)
    rows = tail_rows(source, data)
    train, ranks = source.train.take(rows), tail_ranks(source, data)[rows]
    splits = {"train": train, "test": source.test}
    if source.validation is not None:
        splits["validation"] = source.validation
    files = [directory / f"{split}-00000-of-00001.parquet" for split in splits]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=directory, prefix=".") as unfinished:
            parts = [Path(unfinished, file.name) for file in files]
            for part, (name, split) in zip(parts, splits.items(), strict=True):
                _write(part, data, split, source.class_names, ranks if name == "train" else None)
            # The train file last: a directory that has one holds a whole pack.
            for part, file in reversed(list(zip(parts, files, strict=True))):
                part.replace(file)
    except OSError as error:
        raise InputError("the pack cannot be written", where=directory, got=error) from error
    return files


def _write(
    file: Path,
    data: Data,
    split: Labelled,
    class_names: tuple[str, ...],
    ranks: NDArray[np.int64] | None = None,
) -> None:
    images = read_images(data, split).images
    columns = {"label": split.labels, "index": split.index}
    if ranks is not None:
        columns["lt_rank"] = ranks
    schema = _schema(class_names, tuple(columns), grey=images.shape[-1] == 1)
    with pq.ParquetWriter(file, schema) as writer, image_threads() as threads:
        for start in range(0, len(split), ROW_GROUP):
            rows = slice(start, start + ROW_GROUP)
            pairs = zip(threads.map(_webp, images[rows]), split.index[rows], strict=True)
            encoded = [{"bytes": content, "path": f"{place}.webp"} for content, place in pairs]
            arrays = [pa.array(encoded, schema.field("image").type)]
            arrays += [pa.array(values[rows]) for values in columns.values()]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _webp(image: NDArray[np.uint8]) -> bytes:
    grey = image.shape[-1] == 1
    content = BytesIO()
    Image.fromarray(image[..., 0] if grey else image).save(content, "WEBP", lossless=True)
    return content.getvalue()


def _schema(class_names: tuple[str, ...], integers: tuple[str, ...], grey: bool) -> pa.Schema:
    """Arrow types with the hub's features; `mode: L` makes readers give a grey image one channel."""
    features: dict[str, object] = {"image": {"_type": "Image"} | ({"mode": "L"} if grey else {})}
    features |= {name: {"dtype": "int64", "_type": "Value"} for name in integers}
    features["label"] = {"names": list(class_names), "_type": "ClassLabel"}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields = [("image", image), *((name, pa.int64()) for name in integers)]
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})
