"""The style of all figures, with sizes in inches and colours safe for the colour-blind, and their files."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

from ffds.errors import one_line
from ffds.files import csv_text, make_directory, write_files

__all__ = ["ABOVE", "COLUMN", "PAGE", "save_figure", "style"]
__all__ += ["INK", "ORANGE", "PALE", "PURPLE", "SKY", "TEAL", "YELLOW"]

COLUMN, PAGE = 3.4, 7.0
"""Width of one column, and of a page with two."""

# Okabe and Ito, "Color universal design", 2008.
ORANGE, TEAL, YELLOW, PURPLE, SKY = "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#56B4E9"
INK, PALE = "#222222", "#BFBFBF"

ABOVE: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
"""Place of a legend that would cover the data."""

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
    # A class may be called $x^2.
    "text.parse_math": False,
    # Otherwise the parts of an SVG have random names.
    "svg.hashsalt": "ffds",
}


@contextmanager
def style() -> Iterator[None]:
    """Draw and save in the style of this package; the user's own matplotlib settings do not matter."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


_METADATA = {
    "svg": ("Date", "Description"),
    "pdf": ("CreationDate", "Subject"),
    "png": ("Software", "Description"),
}
"""For each format, what matplotlib would write by itself, different each time; the name of a description."""


def save_figure(
    figure: Figure, rows: Sequence[NamedTuple], directory: str | Path, name: str, description: str
) -> list[Path]:
    """Write ``NAME.svg``, ``.pdf``, ``.png`` and ``.csv``; the same figure gives the same bytes.

    The rows are the numbers it shows, all of one type; the description, written into each picture, says
    where they come from. The four paths are returned.
    """
    directory = make_directory(Path(directory), "the figure", "--save DIR")
    contents: dict[Path, bytes] = {}
    with style():
        for ending, (changing, describing) in _METADATA.items():
            content = io.BytesIO()
            metadata = {changing: None, "Title": name, describing: one_line(description)}
            figure.savefig(content, format=ending, metadata=metadata)
            contents[directory / f"{name}.{ending}"] = content.getvalue()
    contents[directory / f"{name}.csv"] = csv_text(rows[0]._fields, rows).encode()
    write_files(contents)
    return list(contents)
