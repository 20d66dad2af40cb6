"""What the files of a run hold, once they are whole, how a fault is told, and which checkpoint is kept."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from operator import index
from pathlib import Path
from reprlib import repr as short
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError, create_model

from ffds.evaluation.measures import MEASURES

__all__ = ["Amount", "Classes", "Count", "Environment", "Epoch", "Percent", "Summary", "checked", "faults"]
__all__ += ["CHECKPOINT_NAME", "checkpoint_path", "checkpoints_in", "kept_beside", "kept_path"]

CHECKPOINT_NAME = re.compile(r"epoch-(\d{4,})(?:-step-(\d{5,}))?(\.old)?")
"""With ``.old``, a checkpoint put aside until a new one of its name is in its place."""

Percent = Annotated[float, Field(ge=0, le=100.01, allow_inf_nan=False)]
"""A sum of rounded confidences can be a little above 100."""
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


class _Content(BaseModel, strict=True):
    """What a file of a run holds at least, once it is whole; other keys may stand beside these."""


class _Accuracy(_Content):
    last: Percent
    best_on_test: Percent | None
    best_epoch: Count | None
    kept: Percent | None = None


class _Kept(_Content):
    epoch: Count
    by: str
    validation: Percent | None


class _Versions(_Content):
    torch: str


class Environment(_Content):
    """``environment.json``."""

    hardware: str
    versions: _Versions
    commit: str | None
    command: str
    earlier: list[dict[str, Any]] = []


class _Class(_Content):
    name: str
    train: Count
    test: Count


class Classes(_Content):
    """``classes.json``."""

    classes: list[_Class]


class _Results(_Content):
    recipe: str
    method: str
    seed: Count
    config_hash: str
    epochs: Count
    accuracy: _Accuracy
    train_accuracy: Percent | None
    seconds: Amount
    images_per_second: Amount


# A run of an earlier version may lack a measure.
_measures: dict[str, Any] = {measure.name: (Percent | None, None) for measure in MEASURES}
_Measures = create_model("_Measures", __base__=_Content, **_measures)
_Scores = create_model("_Scores", __base__=_Measures, per_class=list[Percent | None])
_chosen: dict[str, Any] = {"kept": (_Kept | None, None), "validation": (_Measures | None, None)}
Summary = create_model("Summary", __base__=(_Results, _Measures), **_chosen)
_scored: dict[str, Any] = {"train": (_Measures | None, None)}
_scored |= dict.fromkeys(("test", "validation"), (_Scores | None, None))
Epoch = create_model("Epoch", __base__=_Content, epoch=Count, **_scored)


def checked(text: bytes, promised: type[BaseModel]) -> dict[str, Any]:
    """The JSON of a file, if it holds what is promised; else a ValueError."""
    try:
        content: dict[str, Any] = json.loads(text)
        promised.model_validate(content)
    except RecursionError:
        raise ValueError("nested too deep") from None
    except ValidationError as error:
        raise ValueError(faults(error)) from None
    return content


def faults(error: ValidationError) -> str:
    """All that pydantic found wrong in what a file holds, in one line."""
    found = ((".".join(map(str, one["loc"])), one) for one in error.errors())
    return "; ".join(f"{place}: {one['msg']}, not {short(one['input'])}" for place, one in found)


def checkpoints_in(directory: Path) -> list[Path]:
    """The checkpoints in a directory of them, newest first; one put aside comes after one in its place."""
    names = {path: CHECKPOINT_NAME.fullmatch(path.name) for path in directory.glob("epoch-*")}
    ranked = [(int(name[1]), int(name[2] or 0), not name[3], path) for path, name in names.items() if name]
    return [path for *_, path in sorted(ranked, reverse=True)]


def checkpoint_path(directory: Path, epoch: int, step: int = 0) -> Path:
    """Where the checkpoint after so many epochs, and steps in the next one, lies."""
    return directory / (f"epoch-{epoch:04d}" + (f"-step-{step:05d}" if step else ""))


def kept_beside(path: Path) -> Path | None:
    """The checkpoint of the epoch whose network the run kept when it saved the one at a path.

    None where `trainer.keep` is last, or the checkpoint at the path is damaged.
    """
    with suppress(OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
        reached = json.loads((path / "state.json").read_bytes())["reached"]
        return checkpoint_path(path.parent, index(reached["kept_epoch"]))
    return None


def kept_path(directory: Path) -> Path | None:
    """The checkpoint whose network the run of this directory of checkpoints gives: whoever uses one takes it.

    It is that of the best epoch where the run keeps one, otherwise the newest; None without any. Nothing is
    verified.
    """
    newest = next(iter(checkpoints_in(directory)), None)
    return newest and (kept_beside(newest) or newest)
