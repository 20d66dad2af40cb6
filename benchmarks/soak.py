"""``python -m benchmarks.soak KIND``: kill work at many random places; it must end as if never killed.

Each session is a process of its own on one directory. It dies by SIGKILL at a random instant, or just before
a random one of its calls that open, flush, rename or delete a file, or by SIGXFSZ while it writes a file.
When a session lives to its end, every file must equal that of work that was never killed, times apart; then
the work begins anew in an empty directory, until there were enough kills.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["KINDS", "Soaked", "Work", "die_at", "main", "soak", "trace"]

WAYS = ("instant", "call", "write")
"""How a session of one process is killed, as often each."""
FAMILY = ("instant", "call", "child", "all", "asked")
"""The same for a command that has others train: it, one of its processes, all of them, or SIGTERM to it."""
TIMED = ("seconds", "train_seconds", "images_per_second")
"""Keys whose values are times; the sums of files in a manifest depend on them."""
CALLS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")
"""Audit events before any of which a session can be killed, besides `os.fsync`; replacing is renaming."""
_FILE_BYTES = 1 << 20
_DEADLINE = 600.0

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["ffds.cli", "ffds.training.train", "sklearn.datasets"])


@dataclass(frozen=True)
class Work:
    """Something that goes on where it was killed.

    Attributes:
        act: does it in a directory, from wherever it stands to its end; a function of a module.
        trace: all that it left there, by the names of the files; equal traces mean equal results.
        ways: how its sessions are killed.
    """

    act: Callable[[Path], object]
    trace: Callable[[Path], Mapping[str, object]]
    ways: Sequence[str] = WAYS


@dataclass(frozen=True)
class Soaked:
    """What came of it: kills by way, how often the work was finished, and what then differed."""

    kills: Counter[str]
    finished: int
    differing: tuple[str, ...]


def trace(directory: Path) -> dict[str, object]:
    """Every file below a directory but locks: its JSON without the times, or the sum of its bytes."""
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    kept = [path for path in files if path.name != "lock" and path.suffix != ".lock"]
    return {str(path.relative_to(directory)): _content(path) for path in kept}


def soak(kind: str, kills: int, directory: Path, *, seed: int = 0, ways: Sequence[str] = ()) -> Soaked:
    """Kill work of a kind so often, and compare it whenever it ends; the first difference ends it all.

    Args:
        kind: one of `KINDS`.
        kills: sessions to be killed.
        directory: made for it; ``whole`` in it is never killed, ``parts`` is.
        seed: of the places.
        ways: some of those of the kind; none: all.

    Raises:
        RuntimeError: a session failed instead of being killed, with its output in the message; or a process
            that it started outlived it.
    """
    work, draw = KINDS[kind], random.Random(seed)
    whole, parts = directory / "whole", directory / "parts"
    directory.mkdir(parents=True)
    first = _context.Process(target=int)
    first.start()  # imports everything once, for all sessions
    first.join()
    began = time.monotonic()
    _session(kind, whole, _Death())
    seconds, calls = time.monotonic() - began, int((directory / "calls").read_text(encoding="utf-8"))
    expected, counts, finished = work.trace(whole), Counter[str](), 0
    family: set[int] = set()
    while counts.total() < kills:
        way = draw.choice(ways or work.ways)
        death = _Death(
            after=None if way in ("call", "write") else draw.uniform(0, seconds),
            call=draw.randint(1, calls) if way == "call" else None,
            file_bytes=draw.randrange(_FILE_BYTES) if way == "write" else None,
            victim=way,
        )
        killed, ended = _session(kind, parts, death, family)
        if killed:
            counts[way] += 1
        if not ended and counts.total() < kills:
            continue
        if not ended:
            _session(kind, parts, _Death())
        finished += 1
        if left := _left(family):
            raise RuntimeError(f"processes of {kind} are left: {left}")
        if differing := _differing(expected, work.trace(parts)):
            return Soaked(counts, finished, differing)
        shutil.rmtree(parts)
    return Soaked(counts, finished, ())


@dataclass(frozen=True)
class _Death:
    """When a session dies: after so many seconds, at a call with this number, or in a file of this size.

    After so many seconds the victim can also be a process that it started, and then it does not die.
    """

    after: float | None = None
    call: int | None = None
    file_bytes: int | None = None
    victim: str = "instant"


def _session(kind: str, directory: Path, death: _Death, family: set[int] | None = None) -> tuple[bool, bool]:
    """Work until it is killed, or to its end: whether anything was killed, and whether it came to its end.

    The processes that it started are added to the family.
    """
    log = directory.with_name("log")
    process = _context.Process(target=_child, args=(kind, directory, death, log))
    process.start()
    process.join(_DEADLINE if death.after is None else death.after)
    killed, asked = process.is_alive(), death.victim == "asked"
    if killed and death.after is None:
        process.kill()
        raise RuntimeError(f"a session of {kind} does not end: {log}")
    if killed:
        children = _children(process.pid or 0)
        (family if family is not None else set()).update(children)
        victims = {"child": children[:1], "all": [process.pid, *children]}.get(death.victim, [process.pid])
        for victim in victims:
            with suppress(ProcessLookupError):
                os.kill(victim or 0, signal.SIGTERM if asked else signal.SIGKILL)
        killed = bool(victims)
        process.join(_DEADLINE)
    expected = (0, *((75,) if asked else (-signal.SIGKILL, -signal.SIGXFSZ)))
    if process.exitcode not in expected:
        output = log.read_text(encoding="utf-8", errors="replace")
        raise RuntimeError(f"a session of {kind} ended with {process.exitcode} instead of {death}:\n{output}")
    return killed or process.exitcode != 0, process.exitcode == 0


def _children(parent: int) -> list[int]:
    """The processes that a process has started, the newest first."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            after_name = file.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if int(after_name[1]) == parent:
                found.append(int(file.parent.name))
    return sorted(found, reverse=True)


def _left(family: set[int]) -> list[int]:
    """Those of a family that still run a while after their command has ended."""
    end, left = time.monotonic() + 60, sorted(family)
    while left and time.monotonic() < end:
        left = [pid for pid in left if b"ffds.jobs.stretch" in _command(pid)]
        time.sleep(0.1)
    return left


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _child(kind: str, directory: Path, death: _Death, log: Path) -> None:
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    calls = die_at(death.call)
    if death.file_bytes is not None:
        # Python ignores it by default; then the write would be an error. It would leave a core file.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (death.file_bytes, death.file_bytes))
    code = KINDS[kind].act(directory)
    if code:
        sys.exit(str(code) if not isinstance(code, int) else code)
    directory.with_name("calls").write_text(str(calls()), encoding="utf-8")


def die_at(call: int | None) -> Callable[[], int]:
    """Have this process die by SIGKILL just before its call with this number; the calls so far.

    Calls are those that open a file to write, flush, rename, delete or make something on the disk.
    """
    calls, fsync = 0, os.fsync

    def count() -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        # The flags of an opening come last.
        if event in CALLS and (event != "open" or arguments[-1] & (os.O_WRONLY | os.O_RDWR)):
            count()

    def counted_fsync(descriptor: Any) -> None:
        count()
        fsync(descriptor)

    os.fsync = counted_fsync
    sys.addaudithook(hook)
    return lambda: calls


def _content(path: Path) -> object:
    if path.suffix == ".json":
        return _without_times(json.loads(path.read_bytes()))
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return [_without_times(row) for row in csv.DictReader(file)]
    if path.suffix == ".jsonl":
        return [_without_times(json.loads(line)) for line in path.read_bytes().splitlines()]
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        sums = ("sha256", "bytes") if "sha256" in value else ()
        return {k: _without_times(v) for k, v in value.items() if k not in (*TIMED, *sums)}
    return [_without_times(entry) for entry in value] if isinstance(value, list) else value


def _differing(expected: Mapping[str, object], got: Mapping[str, object]) -> tuple[str, ...]:
    names = sorted(expected.keys() | got.keys())
    return tuple(name for name in names if name not in expected or expected.get(name) != got.get(name))


def _train(directory: Path) -> None:
    """One run of less than a second, with a second phase, and three checkpoints of which two are kept."""
    from ffds.training.train import train

    data = {"data.imbalance_factor": 100, "trainer.batch_size": 128}
    train("digits", out=directory, overrides=data | {"schedule.epochs": 3, "trainer.accelerator": "cpu"})


def _open_through_cache(directory: Path) -> None:
    """Two processes open the same images through one cache; each gets the pixels it would get without."""
    import numpy as np
    from PIL import Image

    images, draw = directory.with_name("images"), np.random.default_rng(0)
    for k in range(0 if images.exists() else 40):
        file = images / ("train", "test")[k % 5 == 4] / "ab"[k % 2] / f"{k}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file)
    os.environ["FFDS_CACHE"] = str(directory)
    other = multiprocessing.get_context("fork").Process(target=_check_cached, args=(images,))
    other.start()
    _check_cached(images)
    other.join()
    if other.exitcode and other.exitcode > 0:  # it may be the one that is killed
        raise RuntimeError(f"the other process ended with {other.exitcode}")


def _check_cached(images: Path) -> None:
    from ffds.data import open_dataset
    from ffds.recipes.schema import Data

    cached, plain = (
        open_dataset(Data(name="folder", root=str(images), in_memory=True, cache=cache))
        for cache in (True, False)
    )
    for ours, expected in ((cached.train, plain.train), (cached.test, plain.test)):
        if hashlib.sha256(ours.images).digest() != hashlib.sha256(expected.images).digest():
            raise RuntimeError("wrong pixels came from the cache")


def _cached(directory: Path) -> dict[str, object]:
    """The images of each entry of a cache, and whatever else is left there but locks."""
    import numpy as np

    found: dict[str, object] = {}
    for path in (path for path in directory.rglob("*") if path.is_file() and path.suffix != ".lock"):
        found[path.name] = hashlib.sha256(
            np.load(path)["images"] if path.suffix == ".npz" else b""
        ).hexdigest()
    return found


def _compare(directory: Path) -> int:
    """Two methods that share epochs, two runs at a time, each in a process of its own."""
    from ffds.cli import main

    command = ["compare", "digits", "--methods", "ce,d-ffds", "--jobs", "2", "--out", str(directory)]
    return main([*command, *_SMALL])


def _sweep(directory: Path) -> int:
    """Three trials, two at a time; so few are drawn before the search learns from any."""
    from ffds.cli import main

    command = ["sweep", "digits", "--trials", "3", "--jobs", "2", "--out", str(directory)]
    return main([*command, *_SMALL])


_SMALL = ("schedule.epochs=4", "data.imbalance_factor=100", "trainer.accelerator=cpu", "model.name=resnet20")


def _runs(directory: Path) -> dict[str, object]:
    """As `trace`, but of a study only its trials by their settings: their numbers depend on interruptions."""
    import optuna

    found = {name: content for name, content in trace(directory).items() if "/sweep/" not in name}
    for journal in directory.glob("*/sweep/*.log"):
        from ffds.sweep.journal import opened_journal
        from ffds.sweep.study import counted

        storage = opened_journal(journal)
        study = optuna.load_study(study_name=journal.stem, storage=storage)
        for trial in counted(study):
            found[f"trial {trial.params}"] = (trial.state.name, trial.value, trial.intermediate_values)
    return found


KINDS: dict[str, Work] = {
    "run": Work(_train, trace),
    "cache": Work(_open_through_cache, _cached),
    "compare": Work(_compare, trace, FAMILY),
    "sweep": Work(_sweep, _runs, FAMILY),
}
"""A row for each kind of work, with a function of a module that does it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak one kind of work; 1 if anything differs.

    Args:
        arguments: without the program's name; None takes those of the process.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--kills", type=int, default=200, metavar="N", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, metavar="K", help="of the places")
    options = parser.parse_args(arguments)
    directory = Path(tempfile.mkdtemp(prefix="soak-")) / options.kind
    soaked = soak(options.kind, options.kills, directory, seed=options.seed)
    ways = ", ".join(f"{count} by {way}" for way, count in sorted(soaked.kills.items()))
    print(f"{options.kind}: {soaked.kills.total()} kills ({ways}); finished {soaked.finished} times")
    if soaked.differing:
        print(f"differing in {directory}: {', '.join(soaked.differing)}")
        return 1
    shutil.rmtree(directory.parent)
    print("every file bit-equal to the work that was never killed, times apart")
    return 0


if __name__ == "__main__":
    sys.exit(main())
