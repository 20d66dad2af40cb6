"""How all figures look: sizes in inches, type, and colours that the colour-blind can tell apart."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

from ffds.files import write_bytes, write_text

__all__ = [
    "ABOVE",
    "COLUMN",
    "INK",
    "ORANGE",
    "PAGE",
    "PALE",
    "PURPLE",
    "SKY",
    "TEAL",
    "YELLOW",
    "save_figure",
    "style",
    "tidy_text",
]

COLUMN, PAGE = 3.4, 7.0
"""Width of one column and of a page with two."""

# Okabe and Ito, "Color universal design", 2008.
ORANGE, TEAL, YELLOW, PURPLE, SKY = "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#56B4E9"
INK, PALE = "#222222", "#BFBFBF"

ABOVE: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
"""Place of a legend that would hide what is drawn."""

_SETTINGS: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": 6,
    "ytick.labelsize": 6,
    "legend.fontsize": 6,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.0,
    "hatch.linewidth": 0.5,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    # Names of the parts of an SVG, which are random otherwise.
    "svg.hashsalt": "ffds",
}


@contextmanager
def style() -> Iterator[None]:
    """Draw and save in the style of this package, whatever the user's own settings are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


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
