"""`docs/settings.md` is what the schema says, and every key has a meaning."""

from pathlib import Path

import pytest

from ffds.methods.registry import METHODS, SETTINGS
from ffds.recipes.schema import SECTIONS, Recipe
from ffds.recipes.settings_page import meaning, settings_page

PAGE = "docs/settings.md"
MODELS = {"recipe": Recipe, **SECTIONS, **{f"method {name}": model for name, model in SETTINGS.items()}}


def test_the_page_is_that_of_the_schema():
    text = (Path(__file__).parents[2] / PAGE).read_text("utf-8")
    assert text == settings_page(), f"run: python -m ffds.recipes.settings_page {PAGE}"


@pytest.mark.parametrize("name", MODELS)
def test_every_key_has_a_docstring_below_it(name):
    keys = ["name"] if name == "recipe" else MODELS[name].model_fields
    assert [key for key in keys if not meaning(MODELS[name], key).endswith(".")] == []


def test_a_setting_of_a_method_is_found_with_its_own_default_and_the_meaning_it_inherits():
    assert "| `method.start` | a finite number, above 0 and below 1 | `0.65` | Fraction of" in settings_page()
    assert meaning(SETTINGS["d-ffds"], "k") == meaning(SETTINGS["ffds"], "k")
    samplers = [method.model_fields["sampler"].default for method in METHODS.values()]
    others = len(samplers) - samplers.count("instance-balanced")
    assert settings_page().count("`method.sampler`") == 1 + others
