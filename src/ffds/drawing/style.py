"""How all figures look: sizes in inches, type, and colours that the colour-blind can tell apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl

__all__ = ["ABOVE", "COLUMN", "INK", "ORANGE", "PAGE", "PALE", "PURPLE", "SKY", "TEAL", "YELLOW", "style"]

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
