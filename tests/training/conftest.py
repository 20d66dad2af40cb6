"""Runs that several tests look at, trained once."""

import pytest

from ffds.recipes.schema import Recipe
from ffds.runs import Run
from ffds.training.train import train_recipe
from tests.training import tiny


@pytest.fixture(scope="session")
def d_ffds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Run]:
    """D-FFDS on the tiny digits, never interrupted. Look only."""
    recipe = tiny.recipe()
    with pytest.MonkeyPatch.context() as patch:
        tiny.use(patch)
        return recipe, train_recipe(recipe, out=tmp_path_factory.mktemp("whole"), shown=False)
