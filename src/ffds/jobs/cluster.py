"""A Dask cluster that trains stretches: each is a task, and each task has a process of its own train it."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from ffds.environment import usable_cores
from ffds.errors import FfdsError, InputError, Interrupted, NonFiniteLossError
from ffds.jobs.options import Jobs

if TYPE_CHECKING:
    from ffds.jobs.plan import Stretch
    from ffds.training.signals import StopSignals

__all__ = ["Cluster", "Ended", "Lost", "Order", "supervise"]

RETRIES = 2
"""How often a stretch is tried again after its process was killed."""

_GOES_ON = "the same command goes on from what is saved"
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Order:
    """What a process of `ffds.jobs.stretch` is to train.

    Attributes:
        recipe: as JSON.
        out: directory of all runs.
        until: epochs of the run after which to stop.
        branches: epochs after which to leave a checkpoint for other runs.
        directory: where the command runs; relative paths of the recipe begin there.
        arguments: of the command, which the run notes.
        threads: OMP_NUM_THREADS of the command, empty where it is not set.
    """

    recipe: str
    out: str
    until: int
    branches: Sequence[int]
    directory: str
    arguments: Sequence[str]
    threads: str


class Ended(NamedTuple):
    """How a process ended: its exit code, and why it failed."""

    code: int
    message: str = ""

    @property
    def error(self) -> FfdsError:
        """The failure as the exception that it was."""
        kinds: dict[int, type[FfdsError]] = {2: InputError, 3: NonFiniteLossError}
        return kinds.get(self.code, FfdsError)(self.message)


class Lost(Exception):  # noqa: N818  (not the end: Dask tries again)
    """A process was killed, or interrupted by somebody else than the command."""


class Cluster:
    """Dask workers, and the stretches that they train.

    On this machine scheduler and workers are threads of this process; only the status pages of Dask listen,
    on localhost. Another cluster is reached by the address of its scheduler: its workers need ffds and have
    to see the directory of the runs. Where workers have the resource GPU, each stretch takes one.

    Args:
        jobs: how many workers here, or the address.
        signals: whether to stop.
        shown: whether to say on standard error that a worker is waited for.

    Raises:
        InputError: there is no scheduler at the address.
        Interrupted: a signal came before there was a worker.
    """

    def __init__(self, jobs: Jobs, signals: StopSignals, *, shown: bool = True) -> None:
        self._jobs, self._signals, self._shown = jobs, signals, shown
        self._topic = f"ffds-{uuid.uuid4().hex}"
        self._open = ExitStack()
        self._news: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self._futures: dict[Stretch, Any] = {}
        self._running: dict[str, Stretch] = {}
        self._finished: set[Stretch] = set()

    def __enter__(self) -> Self:
        with ExitStack() as opening:
            self._client = opening.enter_context(self._connected(opening))
            self._client.subscribe_topic(self._topic, lambda event: self._news.put(event[1]))
            self._resources = {"GPU": 1} if self._has_gpus() else None
            self._environments = [] if self._jobs.scheduler else self._jobs.environments()
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        from distributed import wait

        for stretch in list(self._running.values()):
            self.stop(stretch)
        if self._running and not self._jobs.scheduler:
            wait([self._futures[stretch] for stretch in self._running.values()])
        self._open.close()

    @property
    def slots(self) -> int:
        """Stretches that can train at a time, at least 1."""
        if self._resources:
            workers = self._client.scheduler_info()["workers"].values()
            return max(1, int(sum(worker["resources"].get("GPU", 0) for worker in workers)))
        return max(1, int(sum(self._client.nthreads().values())))

    def submit(self, stretch: Stretch) -> None:
        """Have a stretch trained, once the one before it, submitted earlier, has come to its end."""
        key = f"{stretch.run.name}-{len(self._futures)}-{self._topic}"
        order = Order(
            recipe=stretch.recipe.model_dump_json(),
            out=str(stretch.run.path.absolute().parents[2]),
            until=stretch.until,
            branches=sorted(stretch.branches),
            directory=str(Path.cwd()),
            arguments=sys.argv,
            threads=os.environ.get("OMP_NUM_THREADS", ""),
        )
        future = self._client.submit(
            supervise,
            order,
            self._topic,
            self._environments,
            None if stretch.after is None else self._futures[stretch.after],
            key=key,
            retries=RETRIES,
            resources=self._resources,
            priority=-len(self._futures),
            pure=False,
        )
        self._futures[stretch], self._running[key] = future, stretch
        future.add_done_callback(lambda future: self._news.put((future.key, future)))

    def stop(self, stretch: Stretch) -> None:
        """Ask a stretch to save its state and end, or not to begin."""
        from distributed import Event

        Event(self._futures[stretch].key, client=self._client).set()

    def messages(self) -> Iterator[tuple[Stretch, str | Ended]]:
        """Each line of a process, and how each stretch ended; nothing of those whose predecessor failed.

        Raises:
            Interrupted: a signal came; the processes have saved their state.
        """
        stopped = False
        while self._running:
            if self._signals.requested and not stopped:
                stopped = True
                for stretch in self._running.values():
                    self.stop(stretch)
            try:
                key, message = self._news.get(timeout=_POLL_SECONDS)
            except Empty:
                # What no worker has taken yet has nothing to save.
                if stopped and self._running.keys().isdisjoint(chain(*self._client.processing().values())):
                    break
                continue
            stretch = self._running[key]
            if not isinstance(message, str):
                del self._running[key]
                message = self._end(stretch, message)
            if message is not None:
                yield stretch, message
        if self._signals.requested:
            raise Interrupted(
                f"{self._signals.requested.name}: state saved; the same command goes on from it"
            )

    def _end(self, stretch: Stretch, future: Any) -> Ended | None:
        from distributed import KilledWorker

        if stretch.after is not None and stretch.after not in self._finished:
            return None
        if future.status == "finished":
            ended: Ended = future.result()
            if ended.code == 0:
                self._finished.add(stretch)
            return ended
        error = future.exception() if future.status == "error" else "the Dask scheduler is gone"
        if isinstance(error, KilledWorker):
            error = "the Dask workers that trained it died"
        elif isinstance(error, Exception) and not isinstance(error, Lost):
            error = f"{type(error).__name__}: {error}"
        return Ended(FfdsError.exit_code, f"{error}; {_GOES_ON}")

    def _connected(self, opening: ExitStack) -> Any:
        """A client of the cluster."""
        from distributed import Client, LocalCluster

        address = self._jobs.scheduler
        if not address:
            return Client(
                opening.enter_context(
                    LocalCluster(
                        n_workers=self._jobs.count,
                        threads_per_worker=1,
                        processes=False,
                        memory_limit=None,
                        resources={"GPU": 1} if self._jobs.devices else None,
                        dashboard_address="127.0.0.1:0",
                        worker_dashboard_address="127.0.0.1:0",
                        scheduler_kwargs={"dashboard": False},
                        silence_logs=logging.CRITICAL,
                    )
                ),
                set_as_default=False,
            )
        try:
            return Client(address, set_as_default=False)
        except (OSError, ValueError) as error:
            raise InputError(
                "there is no Dask scheduler at this address",
                where="--scheduler",
                got=address,
                allowed="tcp://HOST:PORT, as `dask scheduler` prints it",
            ) from error

    def _has_gpus(self) -> bool:
        """Whether workers have the resource GPU; waits for the first worker."""
        told = False
        while not (workers := self._client.scheduler_info()["workers"]):
            if self._signals.requested:
                raise Interrupted(f"{self._signals.requested.name}: there was no worker yet")
            if self._shown and not told:
                print(f"waiting for a worker of {self._jobs.scheduler}", file=sys.stderr, flush=True)
            told = True
            time.sleep(_POLL_SECONDS)
        return any("GPU" in worker["resources"] for worker in workers.values())


def supervise(
    order: Order, topic: str, environments: Sequence[Mapping[str, str]], before: Ended | None
) -> Ended | None:
    """As a Dask task: have a process train a stretch, and pass on its lines.

    The event that is named by the key of the task asks the process to save and end.

    Args:
        order: for the process.
        topic: of the Dask events that carry the key of the task and a line each.
        environments: for the process, by the number of this worker; empty on workers of another cluster.
        before: how the stretch before this one ended.

    Returns:
        How the process ended; None where the stretch before this one has not come to its end.

    Raises:
        Lost: the process was killed, or interrupted by somebody else than the command.
    """
    from distributed import Event, get_client, get_worker

    if before is not None and before.code:
        return None
    worker = get_worker()
    key = worker.get_current_task()
    stop = Event(key, client=get_client())
    if stop.is_set():
        return Ended(Interrupted.exit_code)
    process = subprocess.Popen(
        [sys.executable, "-m", "ffds.jobs.stretch"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, **(environments[worker.name] if environments else _share(worker, order.threads))},
        cwd=order.directory if Path(order.directory).is_dir() else None,
        # Ctrl-C on a terminal reaches the command alone, which asks the processes once.
        start_new_session=True,
    )
    with process, _terminated_when(stop, process):
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        with suppress(BrokenPipeError):  # it was killed at once
            process.stdin.write(json.dumps(asdict(order)) + "\n")
            process.stdin.flush()
        for line in process.stderr:
            worker.log_event(topic, [key, line.rstrip("\n")])
        message, code = process.stdout.read(), process.wait()
    if code < 0 or code == Interrupted.exit_code:
        if not stop.is_set():
            name = signal.Signals(-code).name if code < 0 else "a signal"
            raise Lost(f"the process that trained it was ended by {name}")
        return Ended(Interrupted.exit_code, message)
    return Ended(
        code, message or (f"the process that trained it ended with exit code {code}" if code else "")
    )


def _share(worker: Any, threads: str) -> dict[str, str]:
    """Environment on a worker of another cluster, each of whose threads has its share of the cores there."""
    cores = str(max(1, usable_cores() // worker.state.nthreads))
    return {"OMP_NUM_THREADS": threads or cores, "TORCHINDUCTOR_COMPILE_THREADS": cores}


@contextmanager
def _terminated_when(stop: Any, process: subprocess.Popen[str]) -> Iterator[None]:
    """While entered, ask a process to save and end once a Dask event is set, or its scheduler is gone."""
    ended = threading.Event()

    def watch() -> None:
        with suppress(OSError):
            while not stop.is_set():
                if ended.wait(_POLL_SECONDS):
                    return
        process.terminate()

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
    finally:
        ended.set()
        watching.join()
