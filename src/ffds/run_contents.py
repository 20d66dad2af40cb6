"""What the files of a run hold, once they are whole: types, ranges, and how a fault in them is told."""

from __future__ import annotations

import json
from reprlib import repr as short
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError, create_model

from ffds.evaluation.measures import MEASURES

__all__ = ["Amount", "Classes", "Count", "Environment", "Epoch", "Percent", "Summary", "checked", "faults"]

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
