from __future__ import annotations

from typing import get_args

import pytest

from ffds.methods.registry import METHODS
from ffds.recipes.messages import Path, allowed, choices, section_at
from ffds.recipes.schema import Data, Recipe
from ffds.settings import Section


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (("optimizer", "lr"), "a finite number, above 0"),
        (("optimizer", "momentum"), "a finite number, at least 0 and below 1"),
        (("data", "seed"), "a whole number, at least 0 and below 4294967296"),
        (("data", "download"), "true or false"),
        (("data", "root"), "text (in quotes if it looks like a number), or null"),
        (("data", "imbalance_factor"), "a finite number, at least 1, or null"),
        (("data", "cut"), "a list of 3, each a whole number, at least 1, or null"),
        (("data", "cut", 1), "a whole number, at least 1"),
        (("data", "mean"), "a list of 1 to 3, each a finite number"),
        (("data", "augment"), "a list, each one of pad-crop, resized-crop, hflip, vflip"),
        (("data", "augment", 0), "one of pad-crop, resized-crop, hflip, vflip"),
        (("schedule", "milestones", 3, 0), "a finite number, above 0 and below 1"),
        (
            ("schedule", "milestones"),
            "a list, each a list [a finite number, above 0 and below 1; a finite number, above 0]",
        ),
        (("model", "name"), "resnet20, resnet32, resnet44, resnet56 or timm/NAME"),
        (("optimizer",), "a section with the keys lr, momentum, weight_decay, nesterov"),
    ],
)
def test_the_words_for_each_kind_of_setting(path: Path, words: str) -> None:
    assert allowed(Recipe, path) == words


@pytest.mark.parametrize(
    "section", [*(section_at(Recipe, (name,))[0] for name in Recipe.model_fields), *METHODS.values()]
)
def test_every_setting_has_words(section: type[Section]) -> None:
    for name in section.model_fields:
        if (section, name) != (Recipe, "method"):
            words = allowed(section, (name,))
            assert words
            assert "{" not in words


def test_choices_are_the_literal_names() -> None:
    assert choices(Recipe, ("data", "name")) == list(get_args(Data.model_fields["name"].annotation))
    assert choices(Recipe, ("optimizer", "lr")) == []
    assert choices(Recipe, ("data",)) == []
