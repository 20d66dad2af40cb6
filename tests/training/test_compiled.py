"""Without a compiler, training goes on without compilation, and says so once."""

import os
import subprocess
import sys

import torch
from torch import nn

from ffds.training.compiled import compiled

SCRIPT = """
import torch
from ffds.training.compiled import compiled
model = torch.nn.Linear(2, 2)
print(compiled(model, torch.device("cpu")) is model)
"""


def test_no_compiler_is_a_warning(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"PATH": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True\n"
    assert done.stderr.count("warning: trainer.compile is on") == 1
    assert "compiler" in done.stderr.split("got:")[1].splitlines()[0]
    assert "trainer.compile=false" in done.stderr


def test_with_a_compiler_the_network_computes_the_same(monkeypatch, capfd):
    # Without code generation, which takes a while and is torch's own to test.
    monkeypatch.setattr("torch._dynamo.lookup_backend", lambda name: lambda graph, inputs: graph.forward)
    model, images = nn.Linear(3, 2), torch.randn(4, 3)
    found = compiled(model, torch.device("cpu"))
    assert found is not model
    assert torch.equal(found(images), model(images))
    assert "warning" not in capfd.readouterr().err
