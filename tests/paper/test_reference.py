"""The paper's numbers agree with each other and with the counts it states."""

import pytest

from ffds.data.long_tail import long_tail_counts
from ffds.data.sources.registry import SOURCES
from ffds.methods.registry import METHODS
from ffds.paper.reference import (
    COLUMN_TITLES,
    FIGURE_1,
    METHOD_TITLES,
    TABLE_1A,
    TABLE_1B,
    TABLE_1C,
    TABLE_2B,
)
from ffds.recipes import shipped_recipes
from ffds.recipes.load import load_recipe


def test_table_1a_has_every_method_on_every_dataset():
    assert list(METHOD_TITLES) == [method for method in METHODS if method in METHOD_TITLES]
    assert len(METHOD_TITLES) == 11
    assert len(TABLE_1A) == 10
    assert all(list(column) == list(METHOD_TITLES) for column in TABLE_1A.values())


def test_every_column_is_a_shipped_recipe():
    assert set(COLUMN_TITLES) <= set(shipped_recipes())


@pytest.mark.parametrize("column", TABLE_1A)
def test_ours_are_the_best_of_their_family_as_the_paper_prints_them_in_bold(column):
    found = list(TABLE_1A[column].items())
    assert max(found[:6], key=lambda item: item[1])[0] == "ffds"
    assert max(found[6:], key=lambda item: item[1])[0] == "d-ffds"


def test_the_same_run_has_the_same_number_in_every_table():
    for recipe, groups in (("cifar100-lt-100", "10"), ("cifar100-lt-10", "5")):
        ours = TABLE_1A[recipe]["d-ffds"]
        assert TABLE_1B[recipe][groups] == ours == max(TABLE_1B[recipe].values())
        assert TABLE_1C[recipe]["both"] == ours == max(TABLE_1C[recipe].values())
    assert TABLE_2B["cifar100-lt-100"]["concave"] == TABLE_1A["cifar100-lt-100"]["d-ffds"]


def test_areas_grow_to_the_tail_and_are_smaller_with_ffds():
    for areas in FIGURE_1.values():
        assert list(areas) == ["head", "middle", "tail"]
        assert list(areas.values()) == sorted(areas.values())
    assert all(FIGURE_1["ffds"][group] < area for group, area in FIGURE_1["cb-fl"].items())


@pytest.mark.parametrize("recipe", [name for name in COLUMN_TITLES if not name.startswith("ictext")])
def test_recipes_cut_the_published_tail(recipe):
    data = load_recipe(recipe).recipe.data
    assert recipe.endswith(f"-lt-{data.imbalance_factor:g}")
    classes = sum(data.cut)
    largest = SOURCES[data.name].largest_class
    smallest = long_tail_counts(largest, classes, data.imbalance_factor)[-1]
    assert smallest == int(largest / data.imbalance_factor)
