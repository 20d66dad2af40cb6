"""Which recipe a sweep trains; the space is the paper's, and holds the recipe's own settings."""

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffds.errors import InputError
from ffds.methods.ffds import DFFDS, FFDS
from ffds.recipes.load import load_recipe
from ffds.sweep.space import SEARCHED, Space, searched_recipe, with_settings, with_validation

unit = st.floats(0, 1)
four_decimals = st.integers(0, 80_000).map(lambda number: number / 10_000)


# The space


@given(unit, st.floats(0, 5), unit)
def test_every_point_lies_within_the_bounds_of_the_paper(k, gamma_max, share):
    space = Space.around(DFFDS(num_groups=3), 10)
    point = space.point(DFFDS(num_groups=3)) | {"k": k, "gamma_max": gamma_max, "gamma_share": share}
    settings = space.suggest(optuna.trial.FixedTrial(point))
    assert tuple(settings) == SEARCHED
    assert settings["k"] == pytest.approx(k, abs=1e-4)
    assert 0 <= settings["gamma_min"] <= settings["gamma_max"] <= 5
    FFDS(**settings)


def test_every_value_of_the_paper_can_be_chosen():
    space = Space.around(DFFDS(num_groups=3), 10)
    assert space == Space((0.9, 0.99, 0.999, 0.9999), (3, 5, 10), 5.0)
    assert space == Space.around(DFFDS(num_groups=10, k=0.1, gamma_max=5.0), 10)
    assert space.described()["curve"] == ["linear", "convex", "concave"]


@pytest.mark.parametrize(("num_classes", "groups"), [(2, (1,)), (9, (1, 3, 5)), (10, (1, 3, 5, 10))])
def test_no_more_groups_than_classes(num_classes, groups):
    assert Space.around(DFFDS(num_groups=1), num_classes).groups == groups


@given(unit.map(lambda k: round(k, 4)), four_decimals, four_decimals, st.integers(1, 50))
def test_own_settings_come_back_exactly(k, a, b, groups):
    method = DFFDS(beta=0.5, k=k, num_groups=groups, gamma_min=min(a, b), gamma_max=max(a, b), curve="linear")
    space = Space.around(method, 50)
    suggested = space.suggest(optuna.trial.FixedTrial(space.point(method)))
    assert suggested == {key: getattr(method, key) for key in SEARCHED}


# The recipe


@pytest.mark.parametrize("written", ["ce", "ffds", "d-ffds"])
def test_whatever_the_file_says_d_ffds_is_searched_unless_ffds_is_asked_for(written, tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(f"data: {{name: digits}}\nmethod: {written}\n")
    for method, overrides in (("d-ffds", ["method.k=0.2"]), ("ffds", ["method=ffds"])):
        expected = load_recipe(str(file), overrides, method=method).recipe
        assert expected.method.name == method
        assert searched_recipe(str(file), overrides) == expected


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["method=ce"], ["method=ce", "method=d-ffds, method=ffds"]),
        (["trainer.devices=2"], ["trainer.devices=2", "--devices"]),
        (["trainer.num_nodes=3"], ["trainer.num_nodes=3"]),
    ],
)
def test_what_cannot_be_searched_is_refused(overrides, words):
    with pytest.raises(InputError) as error:
        searched_recipe("digits", overrides)
    assert all(word in str(error.value) for word in words)


def test_several_processes_of_one_training_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="WORLD_SIZE=2"):
        searched_recipe("digits")


def test_a_validation_set_is_cut_where_there_is_none():
    recipe = searched_recipe("digits")
    assert recipe.data.validation == 0
    assert with_validation(recipe) == searched_recipe("digits", ["data.validation=0.1"])
    own = searched_recipe("digits", ["data.validation=0.25"])
    assert with_validation(own) is own


def test_settings_are_checked():
    recipe = searched_recipe("digits")
    changed = with_settings(recipe, {"k": 0.25, "curve": "linear"})
    assert changed == searched_recipe("digits", ["method.k=0.25", "method.curve=linear"])
    with pytest.raises(ValueError, match="gamma_min"):
        with_settings(recipe, {"gamma_min": 4.0, "gamma_max": 1.0})
