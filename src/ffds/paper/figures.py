"""The figures of the paper, each drawn from finished runs or from formulas."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from ffds.data.content import knowing_images_if_there
from ffds.data.dataset import Split
from ffds.data.sources.ictext.layout import RENDERED
from ffds.data.sources.registry import SOURCES, titled
from ffds.errors import InputError
from ffds.jobs.options import ALONE, Jobs
from ffds.methods.ffds import FFDS
from ffds.paper import figure_data, panels
from ffds.paper.reference import COLUMN_TITLES
from ffds.paper.reproduce import find_run, train_missing, with_seed
from ffds.paper.table_plan import Cell, planned_table
from ffds.paper.tables import filled_table
from ffds.plotting import COLUMN, PAGE, style
from ffds.recipes.load import load_recipe, planned_recipe
from ffds.recipes.schema import Recipe
from ffds.reports.formatting import provenance
from ffds.reports.run_records import records, run_record
from ffds.run_directory import Run

__all__ = ["FIGURES", "Drawing", "Request", "draw_figure"]

PAIRS = 9
"""Classes of which Figure 4 shows two images."""
_ICTEXT = ("ictext", "ictext-sample")
"""Sources of the images of figure 4."""


class Drawing(NamedTuple):
    """A figure, the numbers it shows, where they come from, and what is missing from it."""

    figure: Figure
    rows: Sequence[NamedTuple]
    description: str
    remark: str = ""


@dataclass(frozen=True)
class Request:
    """What to draw a figure from: a recipe with settings on top, the seed of its runs, and where they are."""

    recipe: str
    overrides: tuple[str, ...] = ()
    seed: int = 0
    out: str | Path = "runs"
    train: bool = True
    jobs: Jobs = ALONE

    def recipe_of(self, method: str) -> Recipe:
        """The recipe of a run with this method."""
        planned = planned_recipe(self.recipe, self.overrides, method=method, seed=self.seed)
        return knowing_images_if_there([planned])[0]

    def runs(self, *methods: str) -> list[Run]:
        """The finished run of each method, trained first if it is missing."""
        recipes = [self.recipe_of(method) for method in methods]
        self.train_missing(recipes)
        return [find_run(recipe, self.out) for recipe in recipes]

    def train_missing(self, recipes: Sequence[Recipe]) -> None:
        """Train those recipes that no finished run measures, if training is allowed."""
        for failure in train_missing(recipes, self.out, self.jobs) if self.train else ():
            raise failure.error


def draw_figure(name: str, request: Request) -> Drawing:
    """A figure of the paper, one of `FIGURES`; a missing run that must not be trained is an InputError."""
    if name not in FIGURES:
        raise InputError(f"the paper has no figure {name}", allowed=", ".join(FIGURES))
    with style():
        return FIGURES[name](request)


def _figure_1(request: Request) -> Drawing:
    runs = request.runs("cb-fl", "ffds")
    rows = figure_data.accuracies_by_epoch(runs)
    figure = Figure(figsize=(PAGE, 2.1))
    for ax, group in zip(figure.subplots(1, 3, sharey=True), figure_data.GROUPS, strict=True):
        panels.overfitting([row for row in rows if row.group == group], ax)
        if group == "head":
            ax.set_ylabel("accuracy, %")
    figure.suptitle(_heading(runs[0].recipe), fontsize=6)
    return Drawing(figure, rows, _measured_on(runs))


def _figure_2a(request: Request) -> Drawing:
    if got := " ".join(request.overrides):
        what = "figure 2a is drawn from formulas: no setting changes it"
        raise InputError(what, where="command line", got=got)
    rows = figure_data.loss_curves()
    formulas = "Formulas of the losses, without class weight and label smoothing; k = 0.9."
    return Drawing(_column(rows, panels.losses, 2.3), rows, formulas)


def _figure_2b(request: Request) -> Drawing:
    recipe = request.recipe_of("d-ffds")
    most = SOURCES[recipe.data.name].largest_class
    factor = recipe.data.imbalance_factor
    if most is None or factor is None or factor == 1 or not isinstance(recipe.method, FFDS):
        what = "figure 2b needs a recipe of a dataset with a published tail"
        allowed = ", ".join(name for name, facts in SOURCES.items() if facts.largest_class)
        raise InputError(what, got=request.recipe, allowed=allowed)
    gammas = recipe.method.gamma_min, recipe.method.gamma_max
    rows = figure_data.focusing_curves(int(most / factor), most, *gammas)
    plan = planned_table("2b", columns=[request.recipe], overrides=request.overrides)
    request.train_missing([with_seed(cell.recipe, request.seed) for cell in plan.cells])
    table = filled_table(plan, records(request.out))
    panel = partial(panels.focusing, labels={cell.row: _accuracies(cell) for cell in table.cells})
    figure = _column(rows, panel, 2.5, f"{table.cells[0].column}; {recipe.schedule.epochs} epochs")
    missing = [cell.row for cell in table.cells if not cell.seeds]
    remark = f"no finished run of the curves {', '.join(missing)} in {request.out}" if missing else ""
    return Drawing(figure, rows, " ".join(provenance(run.source for run in table.sources)), remark)


def _figure_3(request: Request) -> Drawing:
    (run,) = request.runs("d-ffds")
    # Only this figure needs the network.
    from ffds.inference.load import train_probabilities

    elsewhere = [text for text in request.overrides if text.startswith("data.root=")]
    labels = train_probabilities(run, elsewhere)
    method = run.recipe.method
    k = method.k if isinstance(method, FFDS) else 0.0
    rows = figure_data.smoothed_probabilities(labels.probability, labels.group, labels.group_means, k)
    return _of_runs([run], rows, panels.smoothing, height=2.3)


def _figure_4(request: Request) -> Drawing:
    data = load_recipe(request.recipe, request.overrides).recipe.data
    if data.name not in _ICTEXT:
        allowed = f"a recipe of {' or '.join(_ICTEXT)}"
        raise InputError("figure 4 shows ICText-LT", got=request.recipe, allowed=allowed)
    from ffds.data.open import open_dataset

    rows = figure_data.class_counts()
    try:
        dataset = open_dataset(data)
    except InputError as error:
        figure = Figure(figsize=(PAGE, 2.4))
        panels.class_count_bars(rows, figure.subplots())
        remark = f"bars alone, without images: {str(error).splitlines()[0]}"
        return Drawing(figure, rows, "Class counts as the paper prints them.", remark)
    source = RENDERED if RENDERED in dataset.source else "ICText-LT"
    figure = Figure(figsize=(PAGE, 3.1))
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(2.4, 0.7))[:, 0]
    panels.class_count_bars(rows, above.subplots())
    _pairs(dataset.train, dataset.class_names, below)
    below.suptitle(f"sharpest and dullest image of a class ({source})", fontsize=6)
    return Drawing(figure, rows, f"Class counts as the paper prints them; images: {source}.")


def _figure_5a(request: Request) -> Drawing:
    runs = request.runs("ce", "d-ffds")
    return _of_runs(runs, figure_data.gains(*runs), panels.accuracy_gains, height=2.1)


def _figure_5b(request: Request) -> Drawing:
    runs = request.runs("ce", "cb-fl", "d-ffds")
    return _of_runs(runs, figure_data.norms(runs), panels.weight_norms, height=2.1)


FIGURES: dict[str, Callable[[Request], Drawing]] = {
    "1": _figure_1,
    "2a": _figure_2a,
    "2b": _figure_2b,
    "3": _figure_3,
    "4": _figure_4,
    "5a": _figure_5a,
    "5b": _figure_5b,
}
"""By their number in the paper."""


def _column(rows: Any, panel: Callable[[Any, Axes], None], height: float, heading: str = "") -> Figure:
    """One panel, one column wide."""
    figure = Figure(figsize=(COLUMN, height))
    panel(rows, figure.subplots())
    if heading:
        figure.suptitle(heading, fontsize=6)
    return figure


def _of_runs(runs: Sequence[Run], rows: Any, panel: Callable[[Any, Axes], None], height: float) -> Drawing:
    """One panel that shows some runs."""
    return Drawing(_column(rows, panel, height, _heading(runs[0].recipe)), rows, _measured_on(runs))


def _heading(recipe: Recipe) -> str:
    """What was trained, and how long."""
    title = titled(recipe.data.name, COLUMN_TITLES.get(recipe.name, recipe.name))
    return f"{title}; {recipe.schedule.epochs} epochs, seed {recipe.trainer.seed}"


def _measured_on(runs: Iterable[Run]) -> str:
    return " ".join(provenance(run_record(run).source for run in runs))


def _accuracies(cell: Cell) -> str:
    """One line of a legend: the paper's accuracy and the measured one."""
    paper = "" if cell.paper is None else f"{cell.paper:.2f} in the paper, "
    return f"{cell.row}: {paper}{cell.last} measured" + (f" (n = {len(cell.seeds)})" if cell.seeds else "")


def _pairs(train: Split, names: Sequence[str], below: SubFigure) -> None:
    """The sharpest and the dullest image of classes from head to tail."""
    classes = range(0, len(names), -(-len(names) // PAIRS))
    for label, ax in zip(classes, below.subplots(1, len(classes)), strict=True):
        images = train.images[train.labels == label]
        order = figure_data.sharpness(images).argsort()
        panels.image_pair(images[order[-1]], images[order[0]], names[label], ax)
