"""Which runs are trained for a table, and which are taken as they are."""

import pytest

from ffds.errors import InputError
from ffds.paper.reproduce import find_run, reproduced, train_missing
from ffds.paper.table_plan import planned_table
from ffds.reports.run_records import records, runs_csv
from tests.finished_runs import recipe, train_by_hand, write_run

SHORT = "schedule.epochs=2"


def plan(*methods):
    return planned_table("1a", columns=["cifar100-lt-100"], methods=methods, overrides=[SHORT])


def values(table):
    return [cell.last.values for cell in table.cells]


def finished(out, *overrides, method="ce", **numbers):
    return write_run(out, recipe(SHORT, *overrides, method=method), checkpoint=False, **numbers)


@pytest.fixture
def trained(monkeypatch):
    return train_by_hand(monkeypatch)


def test_only_what_no_run_measures_is_trained_and_each_once(trained, tmp_path):
    finished(tmp_path, "trainer.compile=true", "data.root=there")
    assert values(reproduced(plan("ce", "ib"), out=tmp_path)) == [(40.0,), (40.0,)]
    assert trained == [("ib", 0)]
    assert values(reproduced(plan("ib"), seeds=(0, 1, 2), out=tmp_path)) == [(40.0, 41.0, 42.0)]
    assert trained[1:] == [("ib", 1), ("ib", 2)]
    one = recipe(SHORT, method="fl")
    assert train_missing([one, one, recipe(SHORT, "trainer.compile=true", method="fl")], tmp_path) == []
    assert trained[3:] == [("fl", 0)]


def test_without_training_every_seed_there_is_counts(trained, tmp_path):
    for seed in (0, 3):
        finished(tmp_path, f"trainer.seed={seed}")
    table = reproduced(plan("ce", "ib"), out=tmp_path, train=False)
    assert trained == []
    assert [cell.seeds for cell in table.cells] == [(0, 3), ()]


def test_a_runs_csv_gives_the_same_table(trained, tmp_path):
    for method in ("ce", "ib"):
        finished(tmp_path, "trainer.compile=true", method=method)
    finished(tmp_path, "method.k=0.5", method="d-ffds")
    file = tmp_path / "runs.csv"
    file.write_text(runs_csv(records(tmp_path)), encoding="utf-8")
    for one in (plan("ce", "ib", "d-ffds"), planned_table("1b", overrides=[SHORT, "method.k=0.5"])):
        from_file = reproduced(one, runs=file, out=tmp_path / "nowhere")
        assert from_file == reproduced(one, out=tmp_path, train=False)
        assert any(cell.seeds for cell in from_file.cells)
    assert trained == []


@pytest.mark.parametrize("seed", [-1, 2**32, 10**23])
def test_a_seed_out_of_range(seed, trained, tmp_path):
    with pytest.raises(InputError, match=f"out of range(.|\n)*--seeds(.|\n)*{seed}(.|\n)*0 to 4294967295"):
        reproduced(plan("ce"), seeds=[seed], out=tmp_path)
    assert trained == []


def test_find_run_takes_the_run_itself_before_one_that_differs_in_the_machine_only(tmp_path):
    broken = finished(tmp_path, "trainer.seed=9")
    (broken.path / "recipe.yaml").write_text("data: {name: nothing}\n")
    twin = finished(tmp_path, "trainer.compile=true")
    one = recipe(SHORT, method="ce")
    assert find_run(one, tmp_path) == twin
    own = finished(tmp_path)
    assert find_run(one, tmp_path) == own


@pytest.mark.parametrize("other", ["trainer.seed=1", "schedule.epochs=3", "method=fl"])
def test_find_run_takes_no_other(other, tmp_path):
    finished(tmp_path)
    needed = recipe(SHORT, other, method="ce")
    named = f"{needed.method.name}, seed {needed.trainer.seed}"
    with pytest.raises(InputError, match=f"not there(.|\n)*{named}(.|\n)*--no-train"):
        find_run(needed, tmp_path)
