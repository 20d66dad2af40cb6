"""The page of a run as one HTML file that needs no network."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from ffds.data.dataset import Split
from ffds.files import make_directory, write_text
from ffds.reports.finished import FinishedRun
from ffds.reports.page import run_page
from ffds.run_directory import Run, open_run

__all__ = ["report"]


def report(run: Run | str | Path, *, save: str | Path | None = None, test: Split | None = None) -> Path:
    """Write the page of a finished run.

    Args:
        run: the run, or its directory.
        save: the file; None: ``report.html`` in the directory of the run.
        test: the test images, where they are open already; None: they are opened from where they lie.
            Without them the page has no pictures, and says why.

    Returns:
        The file.

    Raises:
        InputError: the run is not done, or a file of it is missing or damaged.
    """
    found = FinishedRun.read(run if isinstance(run, Run) else open_run(run))
    file = found.run.page if save is None else Path(save)
    make_directory(file.parent, "the page", "--save FILE")
    write_text(file, _templates().get_template("run.html").render(run_page(found, test)))
    return file


def _templates() -> Environment:
    """Names, recipes and all else that is not ours stand in a page as text: everything is escaped."""
    loader = PackageLoader("ffds.reports")
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
