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


@dataclass(frozen=True)
class Jobs:
    """Where the runs of one command train.

    On this machine each job has its share of the cores, so that N of them are not slower than one after the
    other. The number of threads decides how sums on the CPU are rounded: it depends on `count` alone, never
    on what is left to train, so that the same command goes on with the same bits.

    Attributes:
        count: runs at a time on this machine, at least 1.
        devices: GPU numbers, given out to the jobs in turn; empty: each sees what this process sees.
        scheduler: address of a Dask scheduler whose workers train the runs; empty: this machine trains them.

    Raises:
        InputError: there is no job, a device without one, jobs or devices beside a scheduler, or torchrun
            has started several processes for each run.

    >>> Jobs.asked(None, (0, 1))
    Jobs(count=2, devices=(0, 1), scheduler='')
    """

    count: int = 1
    devices: tuple[int, ...] = ()
    scheduler: str = ""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError("runs need a process", where="--jobs", got=self.count, allowed="1 or more")
        if self.scheduler and (self.count > 1 or self.devices):
            raise InputError(
                "the workers of a Dask cluster decide how many runs train at once, and on which GPUs",
                where="--scheduler",
                fix="leave out --jobs and --devices, or --scheduler",
            )
        if len(self.devices) > self.count:
            raise InputError(
                "there are more devices than processes to use them",
                where="--devices",
                got=f"{len(self.devices)} devices, --jobs {self.count}",
                fix=f"--jobs {len(self.devices)}, or fewer devices",
            )
        if self.on_dask and is_rank():
            raise InputError(
                "torchrun has started several processes for each run",
                where="--scheduler" if self.scheduler else "--devices" if self.count == 1 else "--jobs",
                fix="leave out --jobs, --devices and --scheduler under torchrun, "
                "or start the command without torchrun",
            )

    @classmethod
    def asked(cls, count: int | None, devices: Iterable[int] = (), scheduler: str | None = None) -> Self:
        """One job for each device unless a number is given.

        Args:
            count: jobs; None: one for each device, without devices one.
            devices: GPU numbers.
            scheduler: address of a Dask scheduler, e.g. ``tcp://HOST:8786``.
        """
        devices = tuple(devices)
        return cls(len(devices) or 1 if count is None else count, devices, scheduler or "")

    @property
    def on_dask(self) -> bool:
        """Whether runs train in processes of their own, not in this one."""
        return self.count > 1 or bool(self.devices) or bool(self.scheduler)

    def check(self, recipes: Iterable[Recipe]) -> None:
        """Refuse what cannot be done, before anything is trained.

        Raises:
            InputError: there is no such GPU, or a recipe takes several devices for one run.
        """
        spread = [one.trainer for one in recipes if one.trainer.devices * one.trainer.num_nodes > 1]
        if self.on_dask and spread:
            raise InputError(
                "a run on several devices cannot be one of several runs at once",
                got=f"trainer.devices={spread[0].devices} trainer.num_nodes={spread[0].num_nodes}",
                fix="set both to 1, and give the devices to the runs with --devices",
            )
        if self.devices:
            self._check_devices()

    def environments(self) -> list[dict[str, str]]:
        """What the process of each job has in its environment beside what this one has."""
        import torch

        shared = {
            "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // self.count)),
            "TORCHINDUCTOR_COMPILE_THREADS": str(max(1, usable_cores() // self.count)),
        }
        return [shared | self._device(place) for place in range(self.count)]

    def _device(self, place: int) -> dict[str, str]:
        if not self.devices:
            return {}
        number = self.devices[place % len(self.devices)]
        visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        return {"CUDA_VISIBLE_DEVICES": visible[number] if visible else str(number)}

    def _check_devices(self) -> None:
        import torch

        there = torch.cuda.device_count()
        missing = [number for number in self.devices if not 0 <= number < there]
        if missing:
            raise InputError(
                "there is no such GPU",
                where="--devices",
                got=", ".join(map(str, missing)),
                allowed=f"0 to {there - 1}" if there else "none: torch sees no GPU here",
                fix="" if there else "leave out --devices",
            )


ALONE = Jobs()
"""One run after the other, in this process."""
