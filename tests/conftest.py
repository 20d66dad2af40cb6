"""What every test may rely on: one thread, a cache of its own, and no process left behind."""

import os
from collections.abc import Iterator

import pytest
import torch

from tests.training import processes


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
