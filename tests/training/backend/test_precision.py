"""What a recipe asks of torch as a whole holds while it trains, and not after."""

import pytest
import torch

from ffds.recipes.schema import Trainer
from ffds.training.backend.devices import precision_flags

BACKENDS = torch.backends


def settings():
    tf32 = BACKENDS.cudnn.allow_tf32, BACKENDS.cuda.matmul.allow_tf32
    return *tf32, BACKENDS.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("precision", ["32", "tf32", "bf16", "16"])
@pytest.mark.parametrize("deterministic", [True, False])
def test_while_it_trains_and_after(precision, deterministic, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before, tf32 = settings(), precision == "tf32"
    with precision_flags(Trainer(precision=precision, deterministic=deterministic)):
        assert settings() == (tf32, tf32, not deterministic, deterministic)
    assert settings() == before


def test_also_after_a_training_that_fails():
    before = settings()
    with pytest.raises(ZeroDivisionError), precision_flags(Trainer(precision="tf32", deterministic=True)):
        1 / 0  # noqa: B018
    assert settings() == before
