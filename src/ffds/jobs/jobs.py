"""How many runs train at once, on which GPUs, and with how many threads each."""

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
    """Processes that share the runs of one command.

    Each has its share of the cores, so that N of them are not slower than one after the other. The number of
    threads decides how sums on the CPU are rounded: it depends on `count` alone, never on what is left to
    train, so that the same command goes on with the same bits.

    Attributes:
        count: processes, at least 1.
        devices: GPU numbers, given out to the processes in turn; empty: each sees what this process sees.

    Raises:
        InputError: there is no process, a device without one, or torchrun has started several processes for
            each run.

    >>> Jobs.asked(None, (0, 1))
    Jobs(count=2, devices=(0, 1))
    """

    count: int = 1
    devices: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError("runs need a process", where="--jobs", got=self.count, allowed="1 or more")
        if len(self.devices) > self.count:
            raise InputError(
                "there are more devices than processes to use them",
                where="--devices",
                got=f"{len(self.devices)} devices, --jobs {self.count}",
                fix=f"--jobs {len(self.devices)}, or fewer devices",
            )
        if self.in_own_processes and is_rank():
            raise InputError(
                "torchrun has started several processes for each run",
                where="--devices" if self.count == 1 else "--jobs",
                fix="leave out --jobs and --devices under torchrun, or start the command without torchrun",
            )

    @classmethod
    def asked(cls, count: int | None, devices: Iterable[int] = ()) -> Self:
        """One process a device unless a number is given.

        Args:
            count: processes; None: one for each device, without devices one.
            devices: GPU numbers.
        """
        devices = tuple(devices)
        return cls(len(devices) or 1 if count is None else count, devices)

    @property
    def in_own_processes(self) -> bool:
        """Whether runs train in processes of their own, not in this one."""
        return self.count > 1 or bool(self.devices)

    def check(self, recipes: Iterable[Recipe]) -> None:
        """Refuse what cannot be done, before anything is trained.

        Raises:
            InputError: there is no such GPU, or a recipe takes several devices for one run.
        """
        if not self.in_own_processes:
            return
        spread = [one for one in recipes if one.trainer.devices * one.trainer.num_nodes > 1]
        if spread:
            trainer = spread[0].trainer
            raise InputError(
                "a run on several devices cannot be one of several runs at once",
                got=f"trainer.devices={trainer.devices} trainer.num_nodes={trainer.num_nodes}",
                fix="set both to 1, and give the devices to the runs with --devices",
            )
        self._check_devices()

    def environments(self, processes: int) -> list[dict[str, str]]:
        """What each process has in its environment beside what this one has.

        Args:
            processes: how many start, `count` or fewer.
        """
        import torch

        shared = {
            "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // self.count)),
            "TORCHINDUCTOR_COMPILE_THREADS": str(max(1, usable_cores() // self.count)),
        }
        return [shared | self._device(place) for place in range(processes)]

    def _device(self, place: int) -> dict[str, str]:
        if not self.devices:
            return {}
        number = self.devices[place % len(self.devices)]
        visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        return {"CUDA_VISIBLE_DEVICES": visible[number] if visible else str(number)}

    def _check_devices(self) -> None:
        if not self.devices:
            return
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
