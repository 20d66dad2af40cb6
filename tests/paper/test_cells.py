"""Which runs fill a cell, and the arithmetic in it."""

from pathlib import Path

import pytest

from ffds.errors import NonFiniteLossError
from ffds.paper.table_plan import planned_table
from ffds.paper.tables import Failure, filled_table
from ffds.reports.run_records import identity, records
from tests.finished_runs import recipe, write_run

SHORT = "schedule.epochs=2"


def plan(*overrides, methods=("ce", "d-ffds")):
    return planned_table("1a", columns=["cifar100-lt-100"], methods=methods, overrides=[SHORT, *overrides])


def run(out, *overrides, method="d-ffds", **numbers):
    write_run(out, recipe(SHORT, *overrides, method=method), checkpoint=False, **numbers)


def test_seeds_are_put_together(tmp_path):
    run(tmp_path, "trainer.seed=2", last=44.0, best=45.0)
    run(tmp_path, "trainer.seed=0", last=40.0, best=41.0)
    ce, ours = filled_table(plan(), records(tmp_path)).cells
    assert (ours.seeds, ours.last.values, ours.best.values) == ((0, 2), (40.0, 44.0), (41.0, 45.0))
    assert ours.difference == pytest.approx(42.0 - 43.46)
    assert (ce.seeds, ce.last.values, ce.difference, ce.shown) == ((), (), None, "—")
    assert (ce.row, ce.column, ce.paper) == ("CE", "CIFAR-100-LT, IF 100", 38.85)


def test_only_the_seeds_that_are_asked_for(tmp_path):
    for seed in (0, 1, 2):
        run(tmp_path, f"trainer.seed={seed}", last=40.0 + seed)
    found = filled_table(plan(), records(tmp_path), seeds=(1, 2, 9))
    assert found.cells[1].last.values == (41.0, 42.0)
    assert [source.seed for source in found.sources] == [1, 2]


@pytest.mark.parametrize(
    "other", ["schedule.epochs=3", "method.k=0.5", "optimizer.lr=0.2", "trainer.precision=bf16"]
)
def test_what_was_measured_otherwise_does_not_mix(other, tmp_path):
    run(tmp_path, last=40.0)
    run(tmp_path, other, last=10.0)
    assert filled_table(plan(), records(tmp_path)).cells[1].last.values == (40.0,)
    assert filled_table(plan(other, methods=["d-ffds"]), records(tmp_path)).cells[0].last.values == (10.0,)


def test_where_it_was_measured_does_not_matter(tmp_path):
    run(tmp_path, "trainer.compile=true", "data.root=there", last=40.0)
    assert filled_table(plan(), records(tmp_path)).cells[1].last.values == (40.0,)


def test_of_two_runs_with_one_seed_the_later_line_counts_once(tmp_path):
    run(tmp_path, last=40.0)
    run(tmp_path, "trainer.compile=true", last=42.0)
    lines = records(tmp_path)
    assert filled_table(plan(), lines).cells[1].last.values == (lines[1].accuracy_last,)
    assert filled_table(plan(), lines[::-1]).cells[1].last.values == (lines[0].accuracy_last,)


def test_a_run_without_a_best_epoch_has_a_result_all_the_same(tmp_path):
    run(tmp_path, last=40.0, best=None)
    cell = filled_table(plan(), records(tmp_path)).cells[1]
    assert (str(cell.last), str(cell.best)) == ("40.00", "—")


def test_a_failure_marks_its_cell_unless_another_seed_filled_it(tmp_path):
    run(tmp_path, last=40.0)
    lines = records(tmp_path)
    failures = [
        Failure(Path(name), identity(recipe(SHORT, method=name)), NonFiniteLossError("nan"))
        for name in ("ce", "d-ffds")
    ]
    ce, ours = filled_table(plan(), lines, failures=failures).cells
    assert (ce.failed, ce.shown) == (True, "failed")
    assert (ours.failed, ours.shown) == (True, "40.00")


def test_columns_keep_their_order(tmp_path):
    both = planned_table("1c")
    found = filled_table(both, [])
    assert list(found.columns) == ["CIFAR-100-LT, IF 100", "CIFAR-100-LT, IF 10"]
    assert [cell.row for cell in found.columns["CIFAR-100-LT, IF 10"]] == [
        *("neither", "FreqFocus", "DynaSmooth", "both")
    ]
