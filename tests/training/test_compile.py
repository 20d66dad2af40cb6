"""Without a compiler, training goes on uncompiled, with one warning; with one, nothing is written."""

import os
import shutil
import subprocess
import sys

import pytest

SCRIPT = """
import torch
from ffds.training.backend.devices import compile_model
model = torch.nn.Linear(2, 2)
print(compile_model(model, torch.device("cpu")) is model)
"""


@pytest.mark.parametrize("compiler", ["none", "one that writes notes", "one that fails"])
def test_standard_error(compiler, tmp_path):
    """Only a missing or failing compiler is reported, whatever compilers themselves write."""
    if compiler != "none":
        code = "exit 1" if "fails" in compiler else 'exec "$REAL" "$@"'
        (tmp_path / "g++").write_text(f'#!/bin/sh\necho "note: from the compiler" >&2\n{code}\n')
        (tmp_path / "g++").chmod(0o755)
    real = shutil.which("g++")
    if real is None and "notes" in compiler:
        pytest.skip("g++ is not installed")
    path = f"{tmp_path}:{os.environ['PATH']}" if "notes" in compiler else f"{tmp_path}"
    environment = {"PATH": path, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "REAL": str(real)}
    command, settings = [sys.executable, "-c", SCRIPT], os.environ | environment
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=True)
    if "notes" in compiler:
        assert (done.stdout, done.stderr) == ("False\n", "")
        return
    assert done.stdout == "True\n"
    assert done.stderr.splitlines()[0].startswith("warning: trainer.compile is on")
    assert "ompiler" in done.stderr.split("got:")[1].splitlines()[0]
    assert len(done.stderr.splitlines()) == 3
    assert "trainer.compile=false" in done.stderr
