"""What a study has found: the order, the table, the recipe, the plots and the numbers behind them."""

import csv
import json
from dataclasses import replace

import pytest

from ffds.recipes.load import load_recipe
from ffds.sweep.plots import save_plots
from ffds.sweep.results import MIN_TRIALS_FOR_IMPORTANCE
from ffds.sweep.space import searched_recipe
from tests.sweep import made


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    linear_fails = made.Trainer(diverges=lambda recipe, epoch: recipe.method.curve == "linear" and epoch == 6)
    with pytest.MonkeyPatch.context() as patch:
        made.use(patch, linear_fails)
        return made.swept(tmp_path_factory.mktemp("result"), trials=24)


def test_the_best_trial_is_the_finished_one_with_the_highest_score(result):
    finished = [one.score for one in result.trials if one.result == "finished"]
    assert [one.score for one in result.ranked] == sorted(finished, reverse=True)
    assert result.best == result.ranked[0]
    assert {one.result for one in result.trials} == {"finished", "stopped early", "failed"}
    stopped = replace(result.having("stopped early")[0], score=99.0)
    later = replace(result.best, number=99)
    assert replace(result, trials=(*result.trials, stopped, later)).best == result.best


def test_the_table_holds_the_best_trials(result):
    header, *rows = result.table(4)
    assert header == ["trial", "score", "β", "k", "M", "γ min", "γ max", "curve"]
    assert len(rows) == 4
    best = result.best
    settings = [f"{one:g}" if isinstance(one, float) else str(one) for one in best.settings.values()]
    assert rows[0] == [str(best.number), f"{best.score:.2f}", *settings]


def test_the_records_are_json_and_name_the_setting_that_matters(result):
    records = json.loads(json.dumps(result.records(), allow_nan=False))
    assert records["best"]["score"] == result.best.score
    assert [one["number"] for one in records["trials"]] == [one.number for one in result.trials]
    importance = records["importance"]
    assert sum(importance.values()) == pytest.approx(1)
    assert max(importance, key=importance.get) == "k"


def test_few_trials_and_equal_scores_have_no_importance(tmp_path, monkeypatch):
    made.use(monkeypatch)
    assert made.swept(tmp_path / "few", trials=3).importance == {}
    monkeypatch.setattr(made, "score", lambda recipe, epoch: 10.0)
    assert made.swept(tmp_path / "equal", trials=MIN_TRIALS_FOR_IMPORTANCE).importance == {}


# The best recipe


def test_the_best_recipe_is_the_one_asked_for_with_other_settings(result):
    assert result.write_best()
    settings = [f"method.{key}={value}" for key, value in result.best.settings.items()]
    read = load_recipe(str(result.best_path)).recipe
    assert read == searched_recipe("digits", [*made.SETTINGS, *settings])
    assert read.data.validation == 0
    head = result.best_path.read_text().partition("\n\n")[0]
    assert f"trial {result.best.number} of 24" in head
    assert f"{result.best.score:.2f} percent" in head
    assert "Test set  not used" in head


def test_a_validation_set_of_the_recipe_itself_stays(tmp_path, monkeypatch):
    made.use(monkeypatch)
    own = made.swept(tmp_path, "data.validation=0.3", trials=1)
    assert own.write_best()
    assert load_recipe(str(own.best_path)).recipe.data.validation == 0.3


def test_without_a_finished_trial_there_is_nothing(result, tmp_path):
    failed = tuple(result.having("failed"))
    nothing = replace(result, trials=failed, importance={}, study="nothing", directory=tmp_path)
    assert not nothing.write_best()
    assert nothing.records()["best"] is None
    assert nothing.table() == [result.table()[0]]
    assert save_plots(nothing) == []
    assert list(tmp_path.iterdir()) == []


# Plots


def test_the_plots_and_the_numbers_they_show(result, tmp_path):
    first, again = (
        {path.name: path.read_bytes() for path in save_plots(replace(result, directory=tmp_path / name))}
        for name in ("first", "again")
    )
    names = {f"{result.study}-{name}" for name in ("importance", "k", "groups")}
    assert set(first) == {f"{name}.{ending}" for name in names for ending in ("svg", "pdf", "png", "csv")}
    assert first == again, "byte for byte"
    rows = list(csv.DictReader(first[f"{result.study}-k.csv"].decode().splitlines()))
    assert [(int(row["trial"]), float(row["k"]), float(row["score"])) for row in rows] == [
        (one.number, one.settings["k"], one.score) for one in result.having("finished")
    ]
    weights = list(csv.DictReader(first[f"{result.study}-importance.csv"].decode().splitlines()))
    assert {row["setting"]: float(row["importance"]) for row in weights} == result.importance
