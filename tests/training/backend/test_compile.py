"""Without a compiler, training goes on without compilation, and says so once."""

import os
import subprocess
import sys

import torch
from torch import nn

from ffds.training.backend.compile import compile_model

SCRIPT = """
import torch
from ffds.training.backend.compile import compile_model
model = torch.nn.Linear(2, 2)
print(compile_model(model, torch.device("cpu")) is model)
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
    given = []

    def without_code_generation(graph, inputs, options):
        """Which takes a while and is torch's own to test."""
        given.append(options)
        return graph.forward

    monkeypatch.setattr("torch._inductor.compile", without_code_generation)
    model, images = nn.Linear(3, 2), torch.randn(4, 3)
    found = compile_model(model, torch.device("cpu"))
    assert found is not model
    assert torch.equal(found(images), model(images))
    assert given == [{"cpp.enable_tiling_heuristics": False}], "an option that this torch knows"
    assert "warning" not in capfd.readouterr().err
