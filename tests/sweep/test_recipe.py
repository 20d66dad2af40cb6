"""Which recipe a sweep trains."""

import pytest

from ffds.errors import InputError
from ffds.recipes.load import load_recipe
from ffds.sweep.recipe import searched_recipe, with_settings, with_validation


@pytest.mark.parametrize(
    ("name", "overrides", "method"),
    [
        ("cifar100-lt-100", [], "d-ffds"),
        ("cifar100-lt-100", ["method=ffds"], "ffds"),
        ("digits", ["method.k=0.2"], "d-ffds"),
    ],
)
def test_the_method(name, overrides, method):
    assert searched_recipe(name, overrides) == load_recipe(name, overrides, method=method).recipe


@pytest.mark.parametrize("written", ["ce", "ffds", "d-ffds"])
def test_whatever_the_file_says_d_ffds_is_searched_unless_ffds_is_asked_for(written, tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(f"data: {{name: digits}}\nmethod: {written}\n")
    assert searched_recipe(str(file), ["method.start=0.5"]).method.start == 0.5
    assert searched_recipe(str(file), ["method=ffds"]).method.name == "ffds"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["method=ce"], ["method=ce", "method=d-ffds, method=ffds"]),
        (["method=ldam-drw"], ["method=ldam-drw"]),
        (["trainer.devices=2"], ["trainer.devices=2", "CUDA_VISIBLE_DEVICES"]),
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
    cut = with_validation(recipe)
    assert cut.data.validation == 0.1
    assert cut.model_copy(update={"data": recipe.data}) == recipe
    own = searched_recipe("digits", ["data.validation=0.25"])
    assert with_validation(own) is own


def test_settings_are_checked():
    recipe = searched_recipe("digits")
    changed = with_settings(recipe, {"k": 0.25, "curve": "linear"})
    assert changed == searched_recipe("digits", ["method.k=0.25", "method.curve=linear"])
    with pytest.raises(ValueError, match="gamma_min"):
        with_settings(recipe, {"gamma_min": 4.0, "gamma_max": 1.0})
