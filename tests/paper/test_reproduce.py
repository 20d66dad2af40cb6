"""What is trained for a table, and what is not."""

import sys
from types import SimpleNamespace

import pytest

from ffds.errors import InputError, Interrupted, NonFiniteLossError
from ffds.jobs.jobs import ALONE, Jobs
from ffds.paper.reproduce import find_run, reproduced, train_missing
from ffds.paper.table_plan import planned_table
from ffds.reports.run_records import records, runs_csv
from ffds.run_directory import Run
from tests.finished_runs import recipe, write_run

SHORT = "schedule.epochs=2"


def plan(*methods):
    return planned_table("1a", columns=["cifar100-lt-100"], methods=methods, overrides=[SHORT])


@pytest.fixture
def trained(monkeypatch):
    """In place of training: each recipe gets a run, those of FL fail, and what was asked for is noted."""
    asked = []

    def train_all(recipes, *, out="runs", jobs=ALONE):
        asked.extend(recipes)
        failures = {}
        for one in recipes:
            if one.method.name == "fl":
                failures[Run.of(one, out).path] = NonFiniteLossError("nan")
            else:
                write_run(out, one, last=40.0 + one.trainer.seed, checkpoint=False)
        return failures

    monkeypatch.setitem(sys.modules, "ffds.jobs.several", SimpleNamespace(train_all=train_all))
    return asked


def names(recipes):
    return [(one.method.name, one.trainer.seed) for one in recipes]


def test_the_missing_runs_are_trained_with_seed_0(trained, tmp_path):
    table = reproduced(plan("ce", "ib"), out=tmp_path)
    assert names(trained) == [("ce", 0), ("ib", 0)]
    assert [cell.last.values for cell in table.cells] == [(40.0,), (40.0,)]


def test_every_seed_is_trained(trained, tmp_path):
    table = reproduced(plan("ce"), seeds=(1, 2), out=tmp_path)
    assert names(trained) == [("ce", 1), ("ce", 2)]
    assert table.cells[0].last.values == (41.0, 42.0)


def test_what_is_measured_is_not_trained_again(trained, tmp_path):
    write_run(tmp_path, recipe(SHORT, "trainer.compile=true", "data.root=there", method="ce"))
    reproduced(plan("ce", "ib"), out=tmp_path)
    assert names(trained) == [("ib", 0)]
    trained.clear()
    reproduced(plan("ce", "ib"), out=tmp_path)
    assert trained == []


def test_a_run_that_two_cells_need_is_trained_once(trained, tmp_path):
    one = recipe(SHORT, method="ce")
    assert train_missing([one, one, recipe(SHORT, "trainer.compile=true", method="ce")], tmp_path) == []
    assert len(trained) == 1


def test_jobs_are_handed_on(monkeypatch, tmp_path):
    asked = []

    def train_all(recipes, *, out, jobs):
        asked.append(jobs)
        return {}

    monkeypatch.setitem(sys.modules, "ffds.jobs.several", SimpleNamespace(train_all=train_all))
    reproduced(plan("ce"), out=tmp_path)
    reproduced(plan("ce"), out=tmp_path, jobs=Jobs(2, (0,)))
    assert asked == [ALONE, Jobs(2, (0,))]


def test_a_failure_is_a_marked_gap(trained, tmp_path):
    table = reproduced(plan("ce", "fl"), out=tmp_path)
    assert [cell.shown for cell in table.cells] == ["40.00", "failed"]
    assert [failure.path for failure in table.failures] == [Run.of(recipe(SHORT, method="fl"), tmp_path).path]


def test_an_interruption_ends_it(monkeypatch, tmp_path):
    def train_all(recipes, **_):
        raise Interrupted("stopped")

    monkeypatch.setitem(sys.modules, "ffds.jobs.several", SimpleNamespace(train_all=train_all))
    with pytest.raises(Interrupted):
        reproduced(plan("ce"), out=tmp_path)


def test_without_training_every_seed_there_is_counts(trained, tmp_path):
    for seed in (0, 3):
        one = recipe(SHORT, f"trainer.seed={seed}", method="ce")
        write_run(tmp_path, one, last=40.0 + seed, checkpoint=False)
    table = reproduced(plan("ce", "ib"), out=tmp_path, train=False)
    assert trained == []
    assert [cell.seeds for cell in table.cells] == [(0, 3), ()]


def test_a_runs_csv_gives_the_same_table(trained, tmp_path):
    for method in ("ce", "ib"):
        write_run(tmp_path, recipe(SHORT, "trainer.compile=true", method=method), checkpoint=False)
    write_run(tmp_path, recipe(SHORT, "method.k=0.5"), checkpoint=False)
    file = tmp_path / "runs.csv"
    file.write_text(runs_csv(records(tmp_path)), encoding="utf-8")
    for wanted in (plan("ce", "ib", "d-ffds"), planned_table("1b", overrides=[SHORT, "method.k=0.5"])):
        from_file = reproduced(wanted, runs=file, out=tmp_path / "nowhere")
        assert from_file == reproduced(wanted, out=tmp_path, train=False)
        assert any(cell.seeds for cell in from_file.cells)
    assert trained == []


def test_find_run_takes_the_run_itself_before_a_twin(tmp_path):
    twin = write_run(tmp_path, recipe(SHORT, "trainer.compile=true", method="ce"), checkpoint=False)
    one = recipe(SHORT, method="ce")
    assert find_run(one, tmp_path) == twin
    own = write_run(tmp_path, one, checkpoint=False)
    assert find_run(one, tmp_path) == own


def test_find_run_passes_over_what_cannot_be_read(tmp_path):
    broken = write_run(tmp_path, recipe(SHORT, "trainer.seed=9", method="ce"), checkpoint=False)
    (broken.path / "recipe.yaml").write_text("data: {name: nothing}\n")
    twin = write_run(tmp_path, recipe(SHORT, "trainer.compile=true"), checkpoint=False)
    assert find_run(recipe(SHORT), tmp_path) == twin


@pytest.mark.parametrize("other", ["trainer.seed=1", "schedule.epochs=3", "method=fl"])
def test_find_run_takes_no_other(other, tmp_path):
    write_run(tmp_path, recipe(SHORT, method="ce"), checkpoint=False)
    wanted = recipe(SHORT, other, method="ce")
    with pytest.raises(InputError, match="not there") as caught:
        find_run(wanted, tmp_path)
    assert f"{wanted.method.name}, seed {wanted.trainer.seed}" in str(caught.value)
    assert "--no-train" in str(caught.value)
