"""From `data.root` to ICText-LT, or to its rendered look-alikes."""

from __future__ import annotations

from pathlib import Path

from ffds.data.ictext.layout import INDEX, LAYOUT
from ffds.data.ictext.reading import read_layout
from ffds.data.source import Source, existing_root, root_path
from ffds.errors import InputError
from ffds.recipes.schema import Data

__all__ = ["open_ictext"]

FOLDERS = ("ictext-lt-18", "ictext2021")
FIX = (
    "ICText-LT is given under a signed agreement only (docs/ictext.md); give its directory: data.root=DIR; "
    "or take look-alikes: data.name=ictext-sample"
)


def open_ictext(data: Data) -> Source:
    """The sources `ictext` and `ictext-sample`.

    `ictext` is what lies in `data.root`, or in its folder ``ictext-lt-18/`` or ``ictext2021/``;
    `ictext-sample` what is rendered into ``ictext-sample-seed<data.seed>/`` there, once.

    Raises:
        InputError: nothing is there, the sample cannot be rendered, or see `reading.read_layout`.
    """
    if data.name == "ictext":
        return read_layout(_photographs(existing_root(data, LAYOUT, FIX)), data)
    if data.root is None:
        raise InputError(
            "ictext-sample needs data.root", got="null", fix="give a directory to render into: data.root=DIR"
        )
    from ffds.data.ictext.sample import rendered_sample

    return read_layout(rendered_sample(root_path(data.root), data.seed), data)


def _photographs(root: Path) -> Path:
    places = [root, *(root / folder for folder in FOLDERS)]
    found = next((place for place in places if (place / INDEX).is_file()), None)
    if found is None:
        raise InputError(f"no ICText-LT: {INDEX} is missing", where=root, allowed=LAYOUT, fix=FIX)
    return found
