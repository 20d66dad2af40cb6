"""Measures the first and second opening of a pack of lossless images, and the start of the program."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.result import Result
from benchmarks.setting import Setting
from benchmarks.timing import alternate, timed
from ffds.data.open import open_dataset
from ffds.data.pack import write_pack
from ffds.data.sources.parquet import image_column, image_mode
from ffds.recipes.load import load_recipe
from ffds.recipes.schema import Data

__all__ = ["one_by_one", "opening"]

SECOND_OPENING = 1.0
STARTS = {"import ffds": 0.1, "ffds --help": 0.3, "ffds show cifar100-lt-100": 0.5}
"""Seconds that each may take, with the start of the interpreter."""


def opening(setting: Setting, pairs: int) -> list[Result]:
    """Open the pack of CIFAR-100 if it lies beside that of CIFAR-10, else one of the digits.

    Args:
        setting: where to look for it.
        pairs: measurements of each side.
    """
    with tempfile.TemporaryDirectory() as directory, _cache_in(Path(directory, "cache")):
        recipe, *overrides = arguments = _pack(setting, Path(directory))
        data = load_recipe(recipe, overrides).recipe.data
        return [*_openings(recipe, data, pairs), _second_start(arguments, pairs), *_starts(pairs)]


def one_by_one(root: Path) -> list[np.ndarray]:
    """The images of each Parquet file, one decoded after the other, in one thread.

    Args:
        root: the directory of a pack.
    """
    return [_decoded(file) for file in sorted(root.glob("*.parquet"))]


def _decoded(file: Path) -> np.ndarray:
    schema = pq.read_schema(file)
    column = image_column(schema, None, file)
    mode = image_mode(schema, column)
    stored = pq.read_table(file, columns=[column]).column(0).to_pylist()
    return np.stack([np.asarray(Image.open(BytesIO(image["bytes"])).convert(mode)) for image in stored])


def _openings(recipe: str, data: Data, pairs: int) -> list[Result]:
    dataset, root = open_dataset(data), Path(data.root or "")
    title = f"{len(dataset.train) + len(dataset.test):,} lossless images ({recipe})"
    without = data.model_copy(update={"cache": False})
    first = timed(lambda: open_dataset(without))
    return [
        Result.of(
            f"first opening of a pack: {title}",
            alternate(first, timed(lambda: one_by_one(root)), pairs),
            against="decoding one by one in one thread",
            unit="s",
            better="higher",
        ),
        Result.of(
            f"second opening: {title}",
            alternate(timed(lambda: open_dataset(data)), first, pairs),
            against="the first",
            unit="s",
            better="higher",
        ),
    ]


def _second_start(arguments: list[str], pairs: int) -> Result:
    measure = _process("-m", "ffds", "data", "info", *arguments)
    return _within("ffds data info of that pack, in a process of its own", measure, SECOND_OPENING, pairs)


def _starts(pairs: int) -> list[Result]:
    commands = {name: ["-m", *name.split()] if name.startswith("ffds") else ["-c", name] for name in STARTS}
    return [_within(name, _process(*commands[name]), limit, pairs) for name, limit in STARTS.items()]


def _within(name: str, measure: Callable[[], float], limit: float, pairs: int) -> Result:
    """A time beside its limit."""
    times = alternate(measure, lambda: limit, pairs)
    return Result.of(name, times, against="what it may take", unit="s", better="lower", target=1)


def _process(*arguments: str) -> Callable[[], float]:
    return timed(lambda: subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL))


def _pack(setting: Setting, directory: Path) -> list[str]:
    """A recipe and its settings, as on the command line."""
    beside = [] if setting.root is None else [Path(setting.root).parent, Path(setting.root)]
    for place in beside:
        if (place / "cifar100-if10").is_dir():
            return ["cifar100-lt-10", f"data.root={place / 'cifar100-if10'}"]
    write_pack(load_recipe("digits", ["data.imbalance_factor=null"]).recipe.data, directory / "pack")
    return ["digits", "data.name=parquet", "data.imbalance_factor=null", f"data.root={directory / 'pack'}"]


@contextmanager
def _cache_in(directory: Path) -> Iterator[None]:
    before = os.environ.get("FFDS_CACHE")
    os.environ["FFDS_CACHE"] = str(directory)
    try:
        yield
    finally:
        if before is None:
            del os.environ["FFDS_CACHE"]
        else:
            os.environ["FFDS_CACHE"] = before
