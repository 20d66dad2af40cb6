"""What is freed in one step is there for the next."""

import ctypes
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from ffds.training.backend.memory import keep_freed_memory

on_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")

# Pieces of 40 MiB: above 32 MiB glibc maps every one anew, whatever came before.
STEPS = """
import resource, torch
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
from ffds.training.backend.memory import keep_freed_memory
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
