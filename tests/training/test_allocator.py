"""What is freed in one step is there for the next."""

import platform
import subprocess
import sys

import pytest

# Pieces of 40 MiB: above 32 MiB glibc maps every one anew, whatever came before.
STEPS = """
import resource, torch
from ffds.training.allocator import keep_freed_memory
{call}
def faults(steps):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        held = [torch.ones(10 * 2**20) for _ in range(3)]
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(5)
print(faults(10))
"""


def page_faults(call):
    code = STEPS.format(call=call)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_is_not_faulted_in_again():
    assert page_faults("assert keep_freed_memory()") < 1000 < page_faults("")


def test_another_c_library_is_left_alone(monkeypatch):
    from ffds.training import allocator

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: pytest.fail("touched"))
    assert not allocator.keep_freed_memory()


def test_training_on_the_cpu_keeps_memory(monkeypatch):
    from ffds.recipes.schema import Trainer
    from ffds.training import launch

    called = []
    monkeypatch.setattr(launch, "keep_freed_memory", lambda: called.append(True))
    launch.launched(Trainer(accelerator="cpu"))
    assert called
