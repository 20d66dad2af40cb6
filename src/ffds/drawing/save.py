"""A figure as files that are the same bytes each time: SVG, PDF, PNG, and the numbers drawn as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from ffds.drawing.style import style
from ffds.files import write_bytes, write_text

__all__ = ["save_figure", "tidy_text"]

_METADATA: dict[str, dict[str, str | None]] = {
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
    "png": {"Software": None},
}
"""What each format would write of its own accord and must not, because it changes."""

_DESCRIPTION = {"svg": "Description", "pdf": "Subject", "png": "Description"}


def save_figure(
    figure: Figure, rows: Sequence[NamedTuple], directory: str | Path, name: str, description: str
) -> list[Path]:
    """Write ``NAME.svg``, ``.pdf``, ``.png`` and ``.csv``; the same figure gives the same bytes.

    Args:
        figure: what was drawn.
        rows: the numbers it shows, all of one kind.
        directory: made if it is not there.
        name: of the files, without ending.
        description: where the numbers come from, written into each picture.

    Returns:
        The four paths.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"{name}.{ending}" for ending in (*_METADATA, "csv")]
    with style():
        for path, (ending, metadata) in zip(paths, _METADATA.items(), strict=False):
            content = io.BytesIO()
            told = metadata | {"Title": name, _DESCRIPTION[ending]: description}
            figure.savefig(content, format=ending, metadata=told)
            write_bytes(path, content.getvalue())
    write_text(paths[-1], tidy_text(rows))
    return paths


def tidy_text(rows: Sequence[NamedTuple]) -> str:
    """The rows as CSV, one number a field, in full.

    >>> from ffds.paper.figure_data import Curve
    >>> print(tidy_text([Curve("linear", 5, 0.0)]), end="")
    curve,images,gamma
    linear,5,0.0
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0]._fields)
    writer.writerows(rows)
    return text.getvalue()
