"""What Fabric is asked for and logs, torch's flags during a training, and freed memory that is kept."""

import ctypes
import logging
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric

from ffds.errors import InputError
from ffds.recipes.schema import Trainer
from ffds.training.backend.devices import keep_freed_memory, launch_fabric, precision_flags

LOGGER = logging.getLogger("lightning_fabric")


@pytest.fixture
def logged():
    """What Fabric logs; its logger does not propagate."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append
    LOGGER.addHandler(handler)
    yield records
    LOGGER.removeHandler(handler)


def test_fabric_does_not_repeat_the_recipe_but_still_warns(logged, monkeypatch):
    before = LOGGER.level
    fabric = launch_fabric(Trainer(precision="bf16", accelerator="cpu"))
    assert fabric.strategy.precision.precision == "bf16-mixed"
    assert not logged
    Fabric(precision="bf16-mixed", accelerator="cpu", devices=1)
    assert len(logged) == 1, "a Fabric of somebody else logs as ever"
    assert LOGGER.level == before
    monkeypatch.setattr(Fabric, "launch", lambda _: LOGGER.warning("no rank 1"))
    launch_fabric(Trainer(accelerator="cpu"))
    assert [record.getMessage() for record in logged[1:]] == ["no rank 1"]


def flags():
    tf32 = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    return *tf32, torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("precision", ["32", "tf32", "bf16", "16"])
@pytest.mark.parametrize("deterministic", [True, False])
def test_flags_hold_during_training_and_are_restored_even_if_it_fails(precision, deterministic, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before, tf32 = flags(), precision == "tf32"
    trainer, during = Trainer(precision=precision, deterministic=deterministic), []
    with pytest.raises(ZeroDivisionError), precision_flags(trainer):
        during.append(flags()) or 1 / 0
    assert during == [(tf32, tf32, not deterministic, deterministic)]
    assert flags() == before


def test_a_cpu_starts_no_more_processes_than_it_has_cores(monkeypatch):
    monkeypatch.setattr(Fabric, "launch", lambda fabric: pytest.fail("processes are started"))
    with pytest.raises(InputError, match=r"trainer\.devices=1000\s+allowed: 1 to "):
        launch_fabric(Trainer(accelerator="cpu", devices=1000))


# Memory

on_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")

# Pieces of 40 MiB: above 32 MiB glibc maps every one anew, whatever came before.
STEPS = """
import resource, torch
from ffds.errors import InputError
from ffds.recipes.schema import Trainer
from ffds.training.backend.devices import launch_fabric
{call}
def faults(steps):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        tensors = [torch.ones(10 * 2**20) for _ in range(3)]
        del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(5)
print(faults(10))
"""


def page_faults(call):
    code = [sys.executable, "-c", STEPS.format(call=call)]
    return int(subprocess.run(code, capture_output=True, text=True, check=True).stdout)


@on_glibc
def test_a_training_does_not_fault_memory_in_again():
    assert page_faults("launch_fabric(Trainer(accelerator='cpu'))") < 1000 < page_faults("")


HEAP = r"""
import re, torch
from pathlib import Path
from ffds.training.backend.devices import keep_freed_memory
def resident():
    return int(re.search(r"VmRSS:\s+([0-9]+) kB", Path("/proc/self/status").read_text())[1]) // 1024
before = resident()
assert keep_freed_memory()
assert resident() - before < 16, "address space became memory"
tensor = torch.zeros(64 * 2**20)
for area in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text()):
    start, end = (int(place, 16) for place in re.match("([0-9a-f]+)-([0-9a-f]+)", area).groups())
    if start < tensor.data_ptr() + tensor.nbytes <= end:
        print(re.search("VmFlags:(.*)", area)[1].split())
"""


@on_glibc
@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="a kernel without huge pages"
)
def test_tensors_lie_where_huge_pages_were_asked_for():
    done = subprocess.run([sys.executable, "-c", HEAP], capture_output=True, text=True, check=True)
    assert "'hg'" in done.stdout


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("touched"))
    assert not keep_freed_memory()
