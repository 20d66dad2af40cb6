"""What a study has found: the order, the table, the recipe, the numbers behind the plots."""

import csv
import json
from dataclasses import replace

import matplotlib
import pytest
from matplotlib.figure import Figure

from ffds.plotting import save_figure, style
from ffds.recipes.load import load_recipe
from ffds.sweep.plots import Score, against_groups, plots
from ffds.sweep.recipe import searched_recipe
from ffds.sweep.results import MIN_TRIALS_FOR_IMPORTANCE
from ffds.sweep.search import sweep
from tests.sweep import made


def diverges(recipe, epoch):
    return recipe.method.curve == "linear" and epoch == 6


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        made.use(patch, made.Trainer(diverges=diverges))
        return sweep("digits", made.SETTINGS, trials=24, out=tmp_path_factory.mktemp("result"), shown=False)


def test_the_best_trial_is_the_finished_one_with_the_highest_score(result):
    finished = [one for one in result.trials if one.result == "finished"]
    assert result.best in finished
    assert result.best.score == max(one.score for one in finished)
    assert [one.score for one in result.ranked] == sorted((one.score for one in finished), reverse=True)
    assert {one.result for one in result.trials} == {"finished", "stopped early", "failed"}


def test_a_stopped_trial_is_never_the_best(result):
    best = result.best
    high = replace(result.having("stopped early")[0], score=99.0)
    assert replace(result, trials=(*result.trials, high)).best == best


def test_of_equal_scores_the_earlier_trial_is_the_best(result):
    later = replace(result.best, number=99)
    assert replace(result, trials=(*result.trials, later)).best == result.best


def test_the_table_holds_the_best_trials(result):
    header, *rows = result.table(4)
    assert header == ["trial", "score", "β", "k", "M", "γ min", "γ max", "curve"]
    assert len(rows) == 4
    best = result.best
    assert rows[0] == [
        str(best.number),
        f"{best.score:.2f}",
        *(f"{value:g}" if isinstance(value, float) else str(value) for value in best.settings.values()),
    ]


def test_the_records_are_json(result):
    records = json.loads(json.dumps(result.records(), allow_nan=False))
    assert records["best"]["score"] == result.best.score
    assert [one["number"] for one in records["trials"]] == [one.number for one in result.trials]
    assert sum(records["importance"].values()) == pytest.approx(1)


def test_the_setting_that_matters_is_found(result):
    importance = result.importance
    assert set(importance) == {"beta", "k", "num_groups", "gamma_max", "gamma_share", "curve"}
    assert max(importance, key=importance.get) == "k"


def test_too_few_trials_have_no_importance(tmp_path, monkeypatch):
    made.use(monkeypatch)
    few = sweep("digits", made.SETTINGS, trials=3, out=tmp_path, shown=False)
    assert len(few.having("finished")) < MIN_TRIALS_FOR_IMPORTANCE
    assert few.importance == {}


def test_equal_scores_have_no_importance(tmp_path, monkeypatch):
    made.use(monkeypatch)
    monkeypatch.setattr(made, "score", lambda recipe, epoch: 10.0)
    assert (
        sweep("digits", made.SETTINGS, trials=MIN_TRIALS_FOR_IMPORTANCE, out=tmp_path, shown=False).importance
        == {}
    )


# The best recipe


def test_the_best_recipe_is_the_one_asked_for_with_other_settings(result):
    assert result.write_best()
    read = load_recipe(str(result.best_path)).recipe
    asked = searched_recipe("digits", made.SETTINGS)
    settings = [f"method.{key}={value}" for key, value in result.best.settings.items()]
    assert read == searched_recipe("digits", [*made.SETTINGS, *settings])
    assert read.data.validation == asked.data.validation == 0


def test_its_header_says_how_it_was_found(result):
    result.write_best()
    head = result.best_path.read_text().partition("\n\n")[0]
    for text in (
        f"study {result.study}: trial {result.best.number} of 24",
        result.tally,
        f"{result.best.score:.2f} percent",
        "after epoch 8 on 20",
        "10 of 10 classes",
        "trainer.seed 0, data.seed 0",
        "Test set  not used",
        f"ffds train {result.study}-best.yaml",
    ):
        assert text in head
    assert all(line.startswith("#") for line in head.splitlines())


def test_a_validation_set_of_the_recipe_itself_stays(tmp_path, monkeypatch):
    made.use(monkeypatch)
    own = sweep("digits", [*made.SETTINGS, "data.validation=0.3"], trials=1, out=tmp_path, shown=False)
    assert own.write_best()
    assert load_recipe(str(own.best_path)).recipe.data.validation == 0.3


def test_without_a_finished_trial_there_is_none(result):
    nothing = replace(result, trials=tuple(result.having("failed")), study="nothing")
    assert not nothing.write_best()
    assert not nothing.best_path.exists()
    assert nothing.records()["best"] is None
    assert nothing.table() == [result.table()[0]]


# Plots


def saved(result, directory):
    with style():
        drawn = list(plots(result))
    for plot in drawn:
        save_figure(plot.figure, plot.rows, directory, plot.name, plot.description)
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_the_plots_and_the_numbers_they_show(result, tmp_path):
    files = saved(result, tmp_path / "one")
    assert set(files) == {
        f"{result.study}-{name}.{ending}"
        for name in ("importance", "k", "groups")
        for ending in ("svg", "pdf", "png", "csv")
    }
    assert files == saved(result, tmp_path / "two"), "byte for byte"
    rows = list(csv.DictReader(files[f"{result.study}-k.csv"].decode().splitlines()))
    assert [(int(row["trial"]), float(row["k"]), float(row["score"])) for row in rows] == [
        (one.number, one.settings["k"], one.score) for one in result.having("finished")
    ]
    weights = list(csv.DictReader(files[f"{result.study}-importance.csv"].decode().splitlines()))
    assert {row["setting"]: float(row["importance"]) for row in weights} == result.importance


def test_without_importance_there_is_no_plot_of_it(result, tmp_path):
    files = saved(replace(result, importance={}), tmp_path)
    assert not [name for name in files if "importance" in name]
    assert len(files) == 8


def test_nothing_finished_draws_nothing(result):
    assert list(plots(replace(result, trials=(), importance={}))) == []


def test_the_means_are_those_of_each_number_of_groups():
    rows = [Score(0, 0.1, 3, 10.0), Score(1, 0.2, 3, 20.0), Score(2, 0.3, 10, 30.0)]
    ax = Figure().subplots()
    against_groups(rows, ax)
    (means,) = [one for one in ax.collections if isinstance(one, matplotlib.collections.LineCollection)]
    assert [segment[0][1] for segment in means.get_segments()] == [15.0, 30.0]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["3", "10"]
    points, ring = [one for one in ax.collections if one is not means]
    assert points.get_offsets().tolist() == [[0, 10], [0, 20], [1, 30]]
    assert ring.get_offsets().tolist() == [[1, 30]]
