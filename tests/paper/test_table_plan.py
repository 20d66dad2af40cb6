"""The runs behind each table."""

import pytest

from ffds.errors import InputError
from ffds.paper.reference import COLUMN_TITLES, METHOD_TITLES, TABLE_1A
from ffds.paper.table_plan import TABLES, planned_table
from ffds.recipes.load import load_recipe
from ffds.reports.run_records import identity

COLUMN = "CIFAR-100-LT, IF 100"
NO_SMOOTHING, SAME_FOCUS = {"k": 0.0}, {"gamma_min": 1.0, "gamma_max": 1.0}


def test_table_1a_is_the_whole_of_the_papers():
    plan = planned_table("1a")
    cells = [(cell.recipe.name, cell.recipe.method.name, cell.paper) for cell in plan.cells]
    assert (plan.protocol, len(cells)) == ("full", 110)
    assert cells == [
        (name, method, TABLE_1A[name][method]) for name in COLUMN_TITLES for method in METHOD_TITLES
    ]


def test_rows_columns_and_settings_can_be_chosen():
    plan = planned_table(
        "1a",
        columns=["digits", "cifar100-lt-50", "digits"],
        methods=["ib", "ce", "ib"],
        overrides=["schedule.epochs=40", "optimizer.lr=0.2"],
    )
    assert [(cell.column, cell.row, cell.paper) for cell in plan.cells] == [
        *(("digits", "IB", None), ("digits", "CE", None)),
        *(("CIFAR-100-LT, IF 50", "IB", 46.22), ("CIFAR-100-LT, IF 50", "CE", 43.24)),
    ]
    assert plan.protocol == "40-epochs"
    assert {(cell.recipe.schedule.epochs, cell.recipe.optimizer.lr) for cell in plan.cells} == {(40, 0.2)}


MODULES = {"FreqFocus": NO_SMOOTHING, "DynaSmooth": SAME_FOCUS, "both": {}}
MODULES |= {"neither": NO_SMOOTHING | SAME_FOCUS}


@pytest.mark.parametrize("column", ["cifar100-lt-100", "cifar100-lt-10"])
@pytest.mark.parametrize(
    ("name", "variants"),
    [
        ("1b", {groups: {"num_groups": int(groups)} for groups in ("1", "5", "10", "50")}),
        ("1c", MODULES),
        ("2b", {curve: {"curve": curve} for curve in ("concave", "convex", "linear")}),
    ],
)
def test_an_ablation_varies_its_settings_alone(name, variants, column):
    shipped = load_recipe(column, method="d-ffds").recipe
    rows = {cell.row: cell.recipe for cell in planned_table(name, columns=[column]).cells}
    assert rows == {
        row: shipped.model_copy(update={"method": shipped.method.model_copy(update=changes)})
        for row, changes in variants.items()
    }
    assert {recipe.method.label_smoothing for recipe in rows.values()} == {0.1}


def test_tables_share_the_runs_that_they_have_in_common():
    rows = ("D-FFDS", "10", "both", "concave")
    all_cells = [cell for name in TABLES for cell in planned_table(name).cells]
    cells = [cell for cell in all_cells if cell.column == COLUMN and cell.row in rows]
    assert len(cells) == len(TABLES) == 4
    assert len({identity(cell.recipe) for cell in cells}) == len({cell.paper for cell in cells}) == 1


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("1d", {}, ["no table 1d", "1a, 1b, 1c, 2b"]),
        ("1b", {"methods": ["ce"]}, ["every row of table 1b is D-FFDS", "ce"]),
        ("1a", {"columns": ["cifar100"]}, ["unknown recipe 'cifar100'"]),
        ("1a", {"methods": ["ce", "dffds"], "columns": ["digits"]}, ["unknown method", "d-ffds"]),
        ("1a", {"overrides": ["method=ce"], "columns": ["digits"]}, ["decides the method", "--methods"]),
        ("1a", {"overrides": ["trainer.seed=3"], "columns": ["digits"]}, ["decides the seed", "--seeds"]),
        ("1c", {"overrides": ["schedule.epocs=4"]}, ["did you mean epochs"]),
    ],
)
def test_what_cannot_be_planned(name, given, words):
    with pytest.raises(InputError) as caught:
        planned_table(name, **given)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_table_holds_one_protocol():
    columns = ["cifar10-lt-100", "tiny-imagenet-lt-100"]
    assert planned_table("1a", columns=columns).protocol == "full"
    with pytest.raises(InputError, match="one protocol") as caught:
        planned_table("1a", columns=columns, overrides=["schedule.epochs=100"])
    assert "100-epochs for CIFAR-10-LT, IF 100; full for Tiny ImageNet-LT, IF 100" in str(caught.value)


def test_a_rendered_sample_never_stands_beside_the_papers_numbers():
    rendered = ["data.name=ictext-sample"]
    (cell,) = planned_table("1a", columns=["ictext-lt-100"], methods=["ce"], overrides=rendered).cells
    assert (cell.column, cell.paper) == ("ICText-LT, IF 100 (rendered sample, not ICText)", None)
