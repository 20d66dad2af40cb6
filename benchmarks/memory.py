"""Peak memory of forward and backward: what a loss allocates on top of the logits."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from benchmarks.losses import LOSSES, cross_entropy_work, loss_work
from benchmarks.result import Result
from benchmarks.setting import Setting
from benchmarks.timing import Pairs

__all__ = ["memory", "peak_bytes"]


def memory(setting: Setting) -> list[Result]:
    """Every loss beside torch's cross-entropy; allocations do not vary, so one pair tells all."""
    return [_against_cross_entropy(name, shape) for shape in setting.sizes.wide for name in LOSSES]


def _against_cross_entropy(name: str, shape: tuple[int, int]) -> Result:
    found = Pairs((peak_bytes(loss_work(name, shape)),), (peak_bytes(cross_entropy_work(shape)),))
    return Result.of(
        f"peak memory of {name} {shape}, forward and backward",
        found.scaled(2**-20),
        against="F.cross_entropy",
        unit="MiB",
        better="lower",
        target=2.5,
    )


def peak_bytes(work: Callable[[], object]) -> float:
    """Largest sum of tensor memory that a call holds at once, beyond what was held before.

    Args:
        work: on the CPU.
    """
    # The profiler reports its own start and stop on standard error otherwise.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    with tempfile.TemporaryDirectory() as directory:
        trace = Path(directory) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]")
    return float(max(accumulate((change for _, change in changes), initial=0)))
