"""A Dask cluster that trains stretches: each is a task, and each task has a process of its own train it."""

from __future__ import annotations

import asyncio
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
from contextlib import ExitStack, suppress
from itertools import chain
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from ffds.environment import usable_cores
from ffds.errors import Crashed, FfdsError, InputError, Interrupted, NonFiniteLossError, note
from ffds.jobs.options import Jobs

if TYPE_CHECKING:
    from ffds.jobs.plan import Stretch
    from ffds.training.signals import StopSignals

__all__ = ["GOES_ON", "RETRIES", "Cluster", "Ended", "Lost", "supervise"]

RETRIES = 2
"""How often a stretch is tried again after its process was killed."""

GOES_ON = "the same command goes on from what is saved"
_POLL_SECONDS = 0.2
CONNECT_SECONDS = 10
_PROTOCOLS = ("tcp", "tls")


class Ended(NamedTuple):
    """How a process ended: its exit code, and why it failed."""

    code: int
    message: str = ""

    @property
    def error(self) -> FfdsError:
        """The failure as the exception that it was."""
        if self.code == InputError.exit_code:
            return InputError.joined([self.message])
        return (NonFiniteLossError if self.code == NonFiniteLossError.exit_code else Crashed)(self.message)


class Lost(Exception):  # noqa: N818  (not the end: Dask tries again)
    """A process was killed, or interrupted by somebody else than the command."""


class Cluster:
    """Dask workers, and the stretches that they train.

    On this machine scheduler and workers are threads of this process; only the status pages of Dask listen,
    on localhost. Another cluster is reached by the address of its scheduler: its workers need ffds and have
    to see the directory of the runs. Where workers have the resource GPU, each stretch takes one.

    Entering it waits for a worker, and says so on standard error if `shown`. It raises InputError where there
    is no scheduler at the address, and Interrupted where a signal comes before there is a worker.
    """

    def __init__(self, jobs: Jobs, signals: StopSignals, *, shown: bool = True) -> None:
        self._jobs, self._signals, self._shown = jobs, signals, shown
        self._topic = f"ffds-{uuid.uuid4().hex}"
        self._open = ExitStack()
        self._news: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self._futures: dict[Stretch, Any] = {}
        self._running: dict[str, Stretch] = {}

    def __enter__(self) -> Self:
        with ExitStack() as opening:
            self._client = opening.enter_context(_client(self._jobs, self._signals, opening))
            self._client.subscribe_topic(self._topic, lambda event: self._news.put(event[1]))
            self._wait_for_worker()
            has_gpus = any("GPU" in worker["resources"] for worker in self._workers)
            self._resources = {"GPU": 1} if has_gpus else None
            self._environments = self._jobs.environments()
            self._open = opening.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        from distributed import wait

        self._stop_all()
        if self._running and not self._jobs.scheduler:
            wait([self._futures[stretch] for stretch in self._running.values()])
        self._open.close()

    @property
    def slots(self) -> int:
        """Stretches that can train at a time, at least 1."""
        if self._resources:
            return int(max(1, sum(worker["resources"].get("GPU", 0) for worker in self._workers)))
        return int(max(1, sum(worker["nthreads"] for worker in self._workers)))

    def submit(self, stretch: Stretch) -> None:
        """Have a stretch trained, once the one before it, submitted earlier, has come to its end."""
        key = f"{stretch.run.name}-{len(self._futures)}-{self._topic}"
        order = {
            "recipe": stretch.recipe.model_dump_json(),
            "out": str(stretch.run.path.absolute().parents[2]),
            "until": stretch.until,
            "branches": sorted(stretch.branches),
            "arguments": sys.argv,
        }
        future = self._client.submit(
            supervise,
            json.dumps(order),
            self._topic,
            self._environments,
            str(Path.cwd()),
            stretch.after and self._futures[stretch.after],
            key=key,
            retries=RETRIES,
            resources=self._resources,
            priority=-len(self._futures),
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
                self._stop_all()
                stopped = True
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
            raise Interrupted(f"{self._signals.requested.name}: state saved; {GOES_ON}")

    def _end(self, stretch: Stretch, future: Any) -> Ended | None:
        """How a stretch ended; None where the one before it failed."""
        from distributed import KilledWorker

        if stretch.after is not None and self._futures[stretch.after].status != "finished":
            return None
        if future.status == "finished":
            ended: Ended | None = future.result()
            return ended
        error = future.exception() if future.status == "error" else "the Dask scheduler is gone"
        if isinstance(error, KilledWorker):
            error = "the Dask workers that trained it died"
        elif not isinstance(error, str | Lost):
            error = repr(error)
        return Ended(FfdsError.exit_code, f"{error}; {GOES_ON}")

    @property
    def _workers(self) -> Any:
        return self._client.scheduler_info()["workers"].values()

    def _stop_all(self) -> None:
        for stretch in list(self._running.values()):
            self.stop(stretch)

    def _wait_for_worker(self) -> None:
        if self._shown and not self._workers:
            note(f"waiting for a worker of {self._jobs.scheduler}")
        while not self._workers:
            if self._signals.requested:
                raise Interrupted(f"{self._signals.requested.name}: there was no worker yet")
            time.sleep(_POLL_SECONDS)


async def _answers(address: str, signals: StopSignals) -> None:
    """Return once a scheduler has answered at an address; TimeoutError if none does.

    A client would wait for ever for a server that accepts the connection and says nothing.
    """
    from distributed import rpc
    from distributed.security import Security

    async with rpc(address, connection_args=Security().get_connection_args("client")) as scheduler:
        asked = asyncio.ensure_future(scheduler.identity())
        for _ in range(round(CONNECT_SECONDS / _POLL_SECONDS)):
            if signals.requested:
                break
            if (await asyncio.wait([asked], timeout=_POLL_SECONDS))[0]:
                await asked
                return
        asked.cancel()
    if signals.requested:
        raise Interrupted(f"{signals.requested.name}: no scheduler had answered yet")
    raise TimeoutError


def _client(jobs: Jobs, signals: StopSignals, opening: ExitStack) -> Any:
    """A client of the cluster at the address, or of one in this process, which is entered."""
    from distributed import Client, LocalCluster

    if jobs.scheduler:
        what, allowed = "there is no Dask scheduler at this address", "tcp://HOST:PORT of `dask scheduler`"
        refused = InputError(what, where="--scheduler", got=jobs.scheduler, allowed=allowed)
        if jobs.scheduler.partition("://")[0] not in _PROTOCOLS:
            raise refused
        try:
            asyncio.run(_answers(jobs.scheduler, signals))
            return Client(jobs.scheduler, set_as_default=False)
        except (OSError, ValueError, TypeError, MemoryError) as error:  # another server may say anything
            raise refused from error
    cluster = LocalCluster(
        n_workers=jobs.count,
        threads_per_worker=1,
        processes=False,
        memory_limit=None,
        resources={"GPU": 1} if jobs.devices else None,
        dashboard_address="127.0.0.1:0",
        worker_dashboard_address="127.0.0.1:0",
        scheduler_kwargs={"dashboard": False},
        silence_logs=logging.CRITICAL,
    )
    return Client(opening.enter_context(cluster), set_as_default=False)


def supervise(
    order: str, topic: str, environments: Sequence[Mapping[str, str]], directory: str, before: Ended | None
) -> Ended | None:
    """As a Dask task: have a process train a stretch, and pass on its lines as events (key, line).

    The event that is named by the key of the task asks the process to save and end. `order` is for
    `ffds.jobs.stretch`; `environments` has one for each worker, or a single one. The process runs in
    `directory`, if it is on this machine: relative paths of a recipe begin there. None is returned unless
    `before`, the stretch before this one, came to its end. Raises Lost where the process was killed, or
    interrupted by somebody else than the command.
    """
    from distributed import Event, get_client, get_worker

    if before is not None and before.code:
        return None
    worker = get_worker()
    key = worker.get_current_task()
    stop = Event(key, client=get_client())
    if stop.is_set():
        return Ended(Interrupted.exit_code)
    cores = str(max(1, usable_cores() // worker.state.nthreads))
    share = {"OMP_NUM_THREADS": cores, "TORCHINDUCTOR_COMPILE_THREADS": cores}
    own = environments[worker.name if len(environments) > 1 else 0]
    process: Any = subprocess.Popen(
        [sys.executable, "-m", "ffds.jobs.stretch"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, **share, **own},
        cwd=directory if Path(directory).is_dir() else None,
        # Ctrl-C on a terminal reaches the command alone, which asks the processes once.
        start_new_session=True,
    )
    watching = threading.Thread(target=_terminate_when, args=(stop, process))
    with process:
        watching.start()
        with suppress(BrokenPipeError):  # it was killed at once
            process.stdin.write(order + "\n")
            process.stdin.flush()
        for line in process.stderr:
            worker.log_event(topic, [key, line.rstrip("\n")])
        message, code = process.stdout.read(), process.wait()
    watching.join()
    if code < 0 or code == Interrupted.exit_code:
        if not stop.is_set():
            name = signal.Signals(-code).name if code < 0 else "a signal"
            raise Lost(f"the process that trained it was ended by {name}")
        return Ended(Interrupted.exit_code, message)
    return Ended(code, message or (code and f"the process that trained it ended with exit code {code}") or "")


def _terminate_when(stop: Any, process: subprocess.Popen[str]) -> None:
    """Ask a process, also a stopped one, to save and end once an event is set or the scheduler is gone."""
    with suppress(OSError):
        while process.poll() is None and not stop.is_set():
            time.sleep(_POLL_SECONDS)
    process.terminate()
    process.send_signal(signal.SIGCONT)
