"""How many runs train at once, where, on which GPUs, and with how many threads each."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from ffds.environment import is_rank, usable_cores
from ffds.errors import InputError
from ffds.recipes.schema import Recipe

__all__ = ["ALONE", "Jobs"]

MOST = 1000
"""Runs at a time on one machine; each takes a process."""


@dataclass(frozen=True)
class Jobs:
    """Where the runs of one command train; InputError where that cannot be.

    On this machine each job has its share of the cores, so that N of them are not slower than one after the
    other. The number of threads decides how sums on the CPU are rounded: it depends on `count` alone, never
    on what is left to train, so that the same command goes on with the same bits.

    Attributes:
        count: runs at a time on this machine, 1 to `MOST`.
        devices: GPU numbers, given out to the jobs in turn; empty: each sees what this process sees.
        scheduler: address of a Dask scheduler whose workers train the runs; empty: this machine trains them.

    >>> Jobs.asked(None, (0, 1))
    Jobs(count=2, devices=(0, 1), scheduler='')
    """

    count: int = 1
    devices: tuple[int, ...] = ()
    scheduler: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MOST:
            what, allowed = "so many runs at a time cannot be", f"1 to {MOST}"
            raise InputError(what, where="--jobs", got=self.count, allowed=allowed)
        if self.scheduler and (self.count > 1 or self.devices):
            what = "the workers of a Dask cluster decide how many runs train at once, and on which GPUs"
            fix = "leave out --jobs and --devices, or --scheduler"
            raise InputError(what, where="--scheduler", fix=fix)
        if (devices := len(self.devices)) > self.count:
            got, fix = f"{devices} devices, --jobs {self.count}", f"--jobs {devices}, or fewer devices"
            raise InputError("there are more devices than processes", where="--devices", got=got, fix=fix)
        if self.on_dask and is_rank():
            what = "torchrun has started several processes for each run"
            raise InputError(what, fix="leave out --jobs, --devices and --scheduler, or torchrun")

    @classmethod
    def asked(cls, count: int | None, devices: Iterable[int] = (), scheduler: str | None = None) -> Self:
        """One job for each device unless a number is given."""
        devices = tuple(devices)
        return cls(len(devices) or 1 if count is None else count, devices, scheduler or "")

    @property
    def on_dask(self) -> bool:
        """Whether runs train in processes of their own, not in this one."""
        return self.count > 1 or bool(self.devices) or bool(self.scheduler)

    def check(self, recipes: Iterable[Recipe]) -> None:
        """Raise InputError where there is no such GPU, or a recipe takes several devices for one run."""
        spread = [one.trainer for one in recipes if one.trainer.devices * one.trainer.num_nodes > 1]
        if self.on_dask and spread:
            got = f"trainer.devices={spread[0].devices} trainer.num_nodes={spread[0].num_nodes}"
            fix = "set both to 1, and give the devices to the runs with --devices"
            raise InputError("a run on several devices cannot train beside others", got=got, fix=fix)
        if self.devices:
            import torch

            there = torch.cuda.device_count()
            if missing := [number for number in self.devices if not 0 <= number < there]:
                got = ", ".join(map(str, missing))
                allowed = f"0 to {there - 1}" if there else "none: torch sees no GPU here"
                raise InputError("there is no such GPU", where="--devices", got=got, allowed=allowed)

    def environments(self) -> list[dict[str, str]]:
        """What the process of each job has in its environment beside what its worker has."""
        if self.scheduler:  # all processes there have the same
            threads = os.environ.get("OMP_NUM_THREADS")
            return [{"OMP_NUM_THREADS": threads} if threads else {}]
        import torch

        threads = str(max(1, torch.get_num_threads() // self.count))
        compiling = str(max(1, usable_cores() // self.count))
        shared = {"OMP_NUM_THREADS": threads, "TORCHINDUCTOR_COMPILE_THREADS": compiling}
        if not self.devices:
            return [shared] * self.count
        visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        names = [visible[number] if visible else str(number) for number in self.devices]
        return [shared | {"CUDA_VISIBLE_DEVICES": names[job % len(names)]} for job in range(self.count)]


ALONE = Jobs()
"""One run after the other, in this process."""
