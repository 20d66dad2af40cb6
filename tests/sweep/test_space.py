"""The space is the paper's, and holds the recipe's own settings."""

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffds.methods.ffds import DFFDS, FFDS
from ffds.recipes import shipped_recipes
from ffds.recipes.load import load_recipe
from ffds.sweep.space import SEARCHED, Space

unit = st.floats(0, 1)
four_decimals = st.integers(0, 80_000).map(lambda number: number / 10_000)


def chosen(space, draw):
    """What a trial gets that draws from the corners and the inside alike."""
    point = {
        "beta": draw(st.sampled_from(space.betas)),
        "k": draw(unit),
        "num_groups": draw(st.sampled_from(space.groups)),
        "gamma_max": draw(st.floats(0, space.gamma)),
        "gamma_share": draw(unit),
        "curve": draw(st.sampled_from(space.curves)),
    }
    return space.suggest(optuna.trial.FixedTrial(point))


@given(st.data(), st.integers(3, 200))
def test_every_point_lies_within_the_bounds_of_the_paper(data, num_classes):
    settings = chosen(Space.around(DFFDS(num_groups=3), num_classes), data.draw)
    assert tuple(settings) == SEARCHED
    assert settings["beta"] in {0.9, 0.99, 0.999, 0.9999}
    assert 0 <= settings["k"] <= 1
    assert settings["num_groups"] in {3, 5, 10}
    assert settings["num_groups"] <= num_classes
    assert 0 <= settings["gamma_min"] <= settings["gamma_max"] <= 5
    assert settings["curve"] in {"linear", "convex", "concave"}
    FFDS(**settings)


def test_every_value_of_the_paper_can_be_chosen():
    space = Space.around(DFFDS(num_groups=3), 10)
    assert space == Space((0.9, 0.99, 0.999, 0.9999), (3, 5, 10), ("linear", "convex", "concave"), 5.0)
    assert space == Space.around(DFFDS(num_groups=10, k=0.1, gamma_max=5.0), 10)


@pytest.mark.parametrize(
    ("num_classes", "groups"), [(2, (1,)), (3, (1, 3)), (9, (1, 3, 5)), (10, (1, 3, 5, 10))]
)
def test_no_more_groups_than_classes(num_classes, groups):
    assert Space.around(DFFDS(num_groups=1), num_classes).groups == groups


@given(unit.map(lambda k: round(k, 4)), four_decimals, four_decimals, st.integers(1, 50))
def test_own_settings_come_back_exactly(k, a, b, groups):
    method = DFFDS(beta=0.5, k=k, num_groups=groups, gamma_min=min(a, b), gamma_max=max(a, b), curve="linear")
    space = Space.around(method, 50)
    suggested = space.suggest(optuna.trial.FixedTrial(space.point(method)))
    assert suggested == {key: getattr(method, key) for key in SEARCHED}


@pytest.mark.parametrize("name", shipped_recipes())
def test_those_of_every_shipped_recipe_do(name):
    method = load_recipe(name, method="d-ffds").recipe.method
    assert Space.settings(Space.point(method)) == {key: getattr(method, key) for key in SEARCHED}
