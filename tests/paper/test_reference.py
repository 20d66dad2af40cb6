"""The paper's numbers agree with each other and with the counts that it states."""

import pytest

from ffds.data.long_tail import long_tail_counts
from ffds.data.sources.registry import SOURCES
from ffds.methods.registry import METHODS
from ffds.paper import reference
from ffds.paper.reference import COLUMN_TITLES, METHOD_TITLES, TABLE_1A, TABLE_1B, TABLE_1C
from ffds.recipes import shipped_recipes
from ffds.recipes.load import load_recipe


def test_table_1a_has_every_method_on_every_dataset():
    assert list(METHOD_TITLES) == [method for method in METHODS if method in METHOD_TITLES]
    assert list(TABLE_1A) == list(COLUMN_TITLES)
    assert set(TABLE_1A) <= set(shipped_recipes())
    assert (len(METHOD_TITLES), len(TABLE_1A)) == (11, 10)
    for column in TABLE_1A.values():
        assert list(column) == list(METHOD_TITLES)
        # The paper prints the best of each family in bold, and it is the paper's own.
        one_phase, two_phases = (dict(list(column.items())[part]) for part in (slice(6), slice(6, None)))
        assert max(one_phase, key=one_phase.get) == "ffds"
        assert max(two_phases, key=two_phases.get) == "d-ffds"


def test_the_same_run_has_the_same_number_in_every_table():
    for recipe, groups in (("cifar100-lt-100", "10"), ("cifar100-lt-10", "5")):
        ours = TABLE_1A[recipe]["d-ffds"]
        assert TABLE_1B[recipe][groups] == ours == max(TABLE_1B[recipe].values())
        assert TABLE_1C[recipe]["both"] == ours == max(TABLE_1C[recipe].values())
    assert reference.TABLE_2B["cifar100-lt-100"]["concave"] == TABLE_1A["cifar100-lt-100"]["d-ffds"]


@pytest.mark.parametrize("recipe", [name for name in COLUMN_TITLES if not name.startswith("ictext")])
def test_recipes_cut_the_published_tail(recipe):
    data = load_recipe(recipe).recipe.data
    largest, factor = SOURCES[data.name].largest_class, data.imbalance_factor
    assert recipe.endswith(f"-lt-{factor:g}")
    assert long_tail_counts(largest, sum(data.cut), factor)[-1] == int(largest / factor)
