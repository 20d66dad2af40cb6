"""The page of one run, or of several side by side, as one HTML file that needs no network."""

from __future__ import annotations

import os
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from ffds.data.dataset import Split
from ffds.files import make_directory, write_text
from ffds.reports.finished import FinishedRun
from ffds.reports.page import run_page
from ffds.reports.side_by_side import side_by_side
from ffds.run_directory import Run, open_run

__all__ = ["report"]


def report(
    run: Run | str | Path,
    *others: Run | str | Path,
    save: str | Path | None = None,
    test: Split | None = None,
) -> Path:
    """Write the page of a finished run, or of several that were tested on the same images.

    Args:
        run: the run, or its directory.
        others: more runs; the page then shows all side by side, and the differences to the first.
        save: the file; None: ``report.html`` in the directory of the run, of several in the deepest
            directory that holds all of them.
        test: the test images, where they are open already; None: they are opened from where they lie.
            Without them the page has no pictures, and says why.

    Returns:
        The file.

    Raises:
        InputError: a run is not done, a file of it is missing or damaged, or the runs were tested on
            different images.
    """
    found = [FinishedRun.read(one if isinstance(one, Run) else open_run(one)) for one in (run, *others)]
    if others:
        above = os.path.commonpath([one.run.path.absolute() for one in found])
        template, content, file = "several.html", side_by_side(found), Path(above, "report.html")
    else:
        template, content, file = "run.html", run_page(found[0], test), found[0].run.page
    file = file if save is None else Path(save)
    make_directory(file.parent, "the page", "--save FILE")
    write_text(file, _templates().get_template(template).render(content))
    return file


def _templates() -> Environment:
    """Names, recipes and all else that is not ours stand in a page as text: everything is escaped."""
    loader = PackageLoader("ffds.reports")
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
