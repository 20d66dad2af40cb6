"""What every test may rely on: one thread, its own cache, no process left behind; and a run to look at."""

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from ffds.recipes.schema import Recipe
from ffds.run_directory import Run
from ffds.training.train import train_recipe
from tests.training import processes, tiny

settings.register_profile("long", max_examples=5000)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Here and in every process a test starts: fast beside other work, and equal bit by bit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        yield


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Here and in every process a test starts: the user's cache is neither read nor written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "FFDS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    yield
    processes.kill_all()


@pytest.fixture(scope="session")
def d_ffds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Run]:
    """D-FFDS on the tiny digits, never interrupted. Look only."""
    recipe = tiny.recipe()
    with pytest.MonkeyPatch.context() as patch:
        tiny.use(patch)
        return recipe, train_recipe(recipe, out=tmp_path_factory.mktemp("whole"), shown=False)
