"""`pip install ffds` brings torch and numpy: the losses and the long-tail rules must not ask for more."""

import re
import subprocess
import sys
from importlib import metadata

import pytest

TRAIN_EXTRA = {
    "PIL",
    "jinja2",
    "lightning_fabric",
    "matplotlib",
    "pyarrow",
    "pydantic",
    "rich",
    "safetensors",
    "sklearn",
    "timm",
    "torchvision",
    "yaml",
}

BLOCK = """
import sys
from importlib.abc import MetaPathFinder

class Blocked(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name} is not installed", name=name)

sys.meta_path.insert(0, Blocked())
"""

USE_LOSSES = """
import torch
from ffds.losses import FFDSLoss, FocalLoss, InfluenceBalancedLoss, LDAMLoss
from ffds.losses import class_balanced_weights, inverse_frequency_weights

loss = FFDSLoss([100, 50, 20, 5], num_groups=2)
for _ in range(2):
    logits = torch.randn(8, 4, requires_grad=True)
    loss(logits, torch.arange(8) % 4).backward()
    loss.end_epoch()
assert logits.grad.abs().sum() > 0 and loss.group_means.isfinite().all()
"""

USE_LONG_TAIL = """
import numpy as np
from ffds.data import long_tail_counts, long_tail_indices

counts = long_tail_counts(50, 4, 10.0)
indices = long_tail_indices(np.arange(200) % 4, counts)
assert len(indices) == sum(counts)
"""


def name_of(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement).group()).lower()


def needed_by(distributions: set[str]) -> set[str]:
    """These distributions and all that they require themselves."""
    found: set[str] = set()
    open_ends = set(distributions)
    while open_ends:
        name = open_ends.pop()
        found.add(name)
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        open_ends |= {name_of(r) for r in requirements if "extra ==" not in r} - found
    return found


def blocked_modules() -> set[str]:
    kept = needed_by({"torch", "numpy"}) | {"ffds"}
    owners = metadata.packages_distributions()
    return TRAIN_EXTRA | {
        module for module, names in owners.items() if not kept & {name_of(name) for name in names}
    }


def run_without_the_rest(program: str) -> subprocess.CompletedProcess[str]:
    source = f"BLOCKED = {sorted(blocked_modules())!r}\n{BLOCK}\n{program}"
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", sorted(TRAIN_EXTRA))
def test_the_block_covers(module):
    assert module in blocked_modules()
    assert not {"torch", "numpy", "ffds"} & blocked_modules()


def test_the_block_works():
    done = run_without_the_rest("import yaml")
    assert "ModuleNotFoundError: yaml is not installed" in done.stderr


@pytest.mark.parametrize("program", [USE_LOSSES, USE_LONG_TAIL], ids=["losses", "long-tail rules"])
def test_torch_and_numpy_are_enough(program):
    done = run_without_the_rest(program)
    assert done.returncode == 0, done.stderr
