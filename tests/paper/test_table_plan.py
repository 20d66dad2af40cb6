"""The runs behind each table."""

import pytest

from ffds.errors import InputError
from ffds.paper.reference import COLUMN_TITLES, METHOD_TITLES, TABLE_1A
from ffds.paper.table_plan import TABLES, planned_table
from ffds.recipes.load import load_recipe
from ffds.reports.run_records import identity


def cells(*arguments, **named):
    return {(cell.column, cell.row): cell for cell in planned_table(*arguments, **named).cells}


def test_table_1a_is_the_whole_of_the_papers():
    plan = planned_table("1a")
    assert plan.protocol == "full"
    assert len(plan.cells) == 110
    wanted = [(cell.recipe.name, cell.recipe.method.name, cell.paper) for cell in plan.cells]
    assert wanted == [
        (name, method, TABLE_1A[name][method]) for name in COLUMN_TITLES for method in METHOD_TITLES
    ]


def test_rows_and_columns_can_be_chosen_once_each():
    plan = planned_table("1a", columns=["digits", "cifar100-lt-50", "digits"], methods=["ib", "ce", "ib"])
    assert [(cell.column, cell.row) for cell in plan.cells] == [
        *(("digits", "IB"), ("digits", "CE")),
        *(("CIFAR-100-LT, IF 50", "IB"), ("CIFAR-100-LT, IF 50", "CE")),
    ]
    assert [cell.paper for cell in plan.cells] == [None, None, 46.22, 43.24]


def test_settings_reach_every_cell_and_the_protocol():
    plan = planned_table(
        "1a", columns=["cifar10-lt-10"], overrides=["schedule.epochs=40", "optimizer.lr=0.2"]
    )
    assert plan.protocol == "40-epochs"
    assert {(cell.recipe.schedule.epochs, cell.recipe.optimizer.lr) for cell in plan.cells} == {(40, 0.2)}


@pytest.mark.parametrize("column", ["cifar100-lt-100", "cifar100-lt-10"])
def test_table_1b_varies_the_groups_alone(column):
    found = cells("1b", columns=[column])
    shipped = load_recipe(column, method="d-ffds").recipe
    for (_, row), cell in found.items():
        method = shipped.method.model_copy(update={"num_groups": int(row)})
        assert cell.recipe == shipped.model_copy(update={"method": method})
    assert [row for _, row in found] == ["1", "5", "10", "50"]


@pytest.mark.parametrize("column", ["cifar100-lt-100", "cifar100-lt-10"])
def test_table_1c_varies_the_modules_alone(column):
    found = {row: cell.recipe for (_, row), cell in cells("1c", columns=[column]).items()}
    shipped = load_recipe(column, method="d-ffds").recipe
    off = {"k": 0.0}, {"gamma_min": 1.0, "gamma_max": 1.0}
    expected = {"neither": off[0] | off[1], "FreqFocus": off[0], "DynaSmooth": off[1], "both": {}}
    for row, changes in expected.items():
        method = shipped.method.model_copy(update=changes)
        assert found[row] == shipped.model_copy(update={"method": method})
    assert {recipe.method.label_smoothing for recipe in found.values()} == {0.1}


def test_table_2b_varies_the_curve_alone():
    found = {row: cell.recipe.method.curve for (_, row), cell in cells("2b").items()}
    assert found == {"concave": "concave", "convex": "convex", "linear": "linear"}


def test_tables_share_the_runs_they_have_in_common():
    column = "CIFAR-100-LT, IF 100"
    ours = cells("1a", columns=["cifar100-lt-100"])[column, "D-FFDS"]
    same = [cells("1b")[column, "10"], cells("1c")[column, "both"], cells("2b")[column, "concave"]]
    assert {identity(cell.recipe) for cell in same} == {identity(ours.recipe)}
    assert {cell.paper for cell in same} == {ours.paper}


def test_every_table_has_a_plan():
    assert [planned_table(name).name for name in TABLES] == list(TABLES)
    assert len({planned_table(name).definition.note for name in TABLES}) == len(TABLES)


@pytest.mark.parametrize(
    ("name", "named", "words"),
    [
        ("1d", {}, ["no table 1d", "1a, 1b, 1c, 2b"]),
        ("1b", {"methods": ["ce"]}, ["every row of table 1b is D-FFDS", "ce"]),
        ("1a", {"columns": ["cifar100"]}, ["unknown recipe 'cifar100'"]),
        ("1a", {"methods": ["ce", "dffds"], "columns": ["digits"]}, ["unknown method", "d-ffds"]),
        ("1a", {"overrides": ["method=ce"], "columns": ["digits"]}, ["decides the method", "--methods"]),
        ("1c", {"overrides": ["method=ce"]}, ["decides the method"]),
        ("1a", {"overrides": ["trainer.seed=3"], "columns": ["digits"]}, ["decides the seed", "--seeds"]),
        ("1c", {"overrides": ["schedule.epocs=4"]}, ["did you mean epochs"]),
    ],
)
def test_what_cannot_be_planned(name, named, words):
    with pytest.raises(InputError) as caught:
        planned_table(name, **named)
    for word in words:
        assert word in str(caught.value)


def test_a_table_holds_one_protocol():
    columns = ["cifar10-lt-100", "tiny-imagenet-lt-100"]
    assert planned_table("1a", columns=columns).protocol == "full"
    with pytest.raises(InputError, match="one protocol") as caught:
        planned_table("1a", columns=columns, overrides=["schedule.epochs=100"])
    assert "100-epochs for CIFAR-10-LT, IF 100; full for Tiny ImageNet-LT, IF 100" in str(caught.value)


def test_a_rendered_sample_never_stands_beside_the_papers_numbers():
    plan = planned_table(
        "1a", columns=["ictext-lt-100"], methods=["ce"], overrides=["data.name=ictext-sample"]
    )
    (cell,) = plan.cells
    assert cell.column == "ICText-LT, IF 100 (rendered sample, not ICText)"
    assert cell.paper is None
    (real,) = planned_table("1a", columns=["ictext-lt-100"], methods=["ce"]).cells
    assert (real.column, real.paper) == ("ICText-LT, IF 100", 74.22)
