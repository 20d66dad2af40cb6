"""`pip install ffds` brings torch and numpy: the losses and the long-tail rules must not ask for more."""

import re
import subprocess
import sys
from importlib import metadata

import pytest

TRAIN_EXTRA = {"PIL", "jinja2", "lightning_fabric", "matplotlib", "pyarrow", "pydantic", "rich"}
TRAIN_EXTRA |= {"safetensors", "sklearn", "timm", "torchvision", "yaml"}

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
assert len(long_tail_indices(np.arange(200) % 4, counts)) == sum(counts)
"""


def name_of(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement).group()).lower()


def needed_by(*distributions: str) -> set[str]:
    """These distributions and all installed ones that they require themselves."""
    needed, pending = set(), set(distributions)
    installed = {name_of(name) for names in metadata.packages_distributions().values() for name in names}
    while pending:
        needed |= pending
        required = {r for name in pending & installed for r in metadata.requires(name) or []}
        pending = {name_of(r) for r in required if "extra ==" not in r} - needed
    return needed


def blocked_modules() -> set[str]:
    kept = needed_by("torch", "numpy") | {"ffds"}
    owners = metadata.packages_distributions()
    others = {module for module, names in owners.items() if not kept & {name_of(name) for name in names}}
    return others | TRAIN_EXTRA


def run_without_the_rest(program: str) -> str:
    source = f"BLOCKED = {sorted(blocked_modules())!r}\n{BLOCK}\n{program}"
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False).stderr


def test_the_block_works():
    assert not {"torch", "numpy", "ffds"} & blocked_modules()
    assert "ModuleNotFoundError: yaml is not installed" in run_without_the_rest("import yaml")


@pytest.mark.parametrize("program", [USE_LOSSES, USE_LONG_TAIL], ids=["losses", "long-tail rules"])
def test_torch_and_numpy_are_enough(program):
    assert run_without_the_rest(program) == ""
