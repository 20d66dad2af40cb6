"""What passes between the command, Dask and the processes; shell scripts stand for the training."""

import asyncio
import json
import signal
import socket
import sys
from pathlib import Path

import pytest

from ffds.errors import Crashed, InputError, Interrupted, NonFiniteLossError
from ffds.jobs.cluster import RETRIES, Cluster, Ended
from ffds.jobs.options import Jobs
from ffds.jobs.plan import Stretch
from ffds.run_directory import Run
from ffds.training.signals import StopSignals
from tests.training import processes, tiny

WAITING = "trap 'echo asked >> asked; exit 75' TERM; echo begun >&2; while :; do sleep 0.05; done"
RECIPE = tiny.recipe(method="ce")


@pytest.fixture(autouse=True)
def script(monkeypatch, tmp_path):
    """Put a shell script in place of `python -m ffds.jobs.stretch`; its order is in $order."""

    def put(text):
        file = tmp_path / "script"
        file.write_text(f"#!/bin/sh\nread -r order\n{text}\n")
        file.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(file))

    monkeypatch.chdir(tmp_path)
    return put


def stretch(until=4, after=None):
    return Stretch(RECIPE, Run.of(RECIPE, Path.cwd()), until, frozenset({2}), after)


def carried_out(*stretches, jobs=None, meanwhile=lambda cluster, one, line: None):
    """What was said and how each ended."""
    lines, ends = [], {}
    with StopSignals() as signals, Cluster(jobs or Jobs(2), signals) as cluster:
        for one in stretches:
            cluster.submit(one)
        for one, message in cluster.messages():
            if isinstance(message, Ended):
                ends[one] = message
            else:
                lines.append(message)
                meanwhile(cluster, one, message)
    return lines, ends


def test_order_and_lines(script, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ffds", "compare", "a b"])
    script('echo "$order" >&2; pwd >&2; echo $OMP_NUM_THREADS >&2; printf unfinished >&2')
    one = stretch()
    lines, ends = carried_out(one)
    assert ends == {one: Ended(0)}
    order = json.loads(lines[0])
    assert type(RECIPE).model_validate_json(order.pop("recipe")) == RECIPE
    expected = {"out": str(tmp_path), "until": 4, "branches": [2], "arguments": ["ffds", "compare", "a b"]}
    assert order == expected
    assert lines[1:] == [str(tmp_path), "1", "unfinished"]


def test_each_worker_has_a_device(script):
    script("echo $CUDA_VISIBLE_DEVICES >&2; sleep 0.3")
    lines, _ = carried_out(stretch(), stretch(), jobs=Jobs(2, (3, 1)))
    assert sorted(lines) == ["1", "3"]


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [(2, InputError, "wrong"), (3, NonFiniteLossError, "wrong"), (1, Crashed, "")],
)
def test_a_failure_is_an_end_and_what_depends_on_it_does_not_begin(code, kind, text, script):
    script(f"case $order in *'\"until\": 1'*) printf '{text}'; exit {code};; esac")
    first, other = stretch(1), stretch(4)
    _, ends = carried_out(first, other, stretch(2, first))
    assert ends == {first: ends[first], other: Ended(0)}
    error = ends[first].error
    assert type(error) is kind
    assert str(error) == (text or f"the process that trained it ended with exit code {code}")


@pytest.mark.parametrize("end", ["kill -KILL $$", "exit 75"])
def test_a_process_that_is_killed_is_tried_again(end, script, tmp_path):
    script(f"echo x >> tries; test $(wc -l < tries) = {RETRIES + 1} || {end}")
    one = stretch()
    assert carried_out(one)[1] == {one: Ended(0)}
    assert (tmp_path / "tries").read_text() == "x\n" * (RETRIES + 1)


def test_a_process_that_is_killed_each_time_fails(script):
    script("kill -KILL $$")
    one = stretch()
    _, ends = carried_out(one, stretch(after=one))
    assert ends == {one: ends[one]}
    assert ends[one].code == 2
    assert "ended by SIGKILL; the same command goes on" in ends[one].message


def test_a_signal_asks_each_process_once_and_begins_no_other(script, tmp_path):
    script(WAITING)
    first, second, begun = stretch(), stretch(), set()

    def interrupt(cluster, one, line):
        begun.add(one)
        if len(begun) == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted, match="SIGINT: state saved; the same command goes on"):
        carried_out(first, second, stretch(after=first), stretch(), meanwhile=interrupt)
    assert begun == {first, second}
    assert (tmp_path / "asked").read_text() == "asked\n" * 2


def test_a_signal_reaches_a_process_that_is_stopped(script, tmp_path):
    script(WAITING.replace("while :;", "kill -STOP $$; while :;"))
    interrupt = lambda *_: signal.raise_signal(signal.SIGTERM)  # noqa: E731
    with pytest.raises(Interrupted, match="SIGTERM: state saved"):
        carried_out(stretch(), meanwhile=interrupt)
    assert (tmp_path / "asked").read_text() == "asked\n"


def test_one_stretch_is_stopped_and_the_others_go_on(script):
    script(f"case $order in *'\"until\": 1'*) {WAITING};; esac; echo begun >&2")
    first, second = stretch(1), stretch(2)
    stop = lambda cluster, one, line: cluster.stop(one) if one is first else None  # noqa: E731
    _, ends = carried_out(first, second, meanwhile=stop)
    assert {one: ended.code for one, ended in ends.items()} == {first: 75, second: 0}


def test_no_process_is_left_when_the_command_fails(script, tmp_path):
    script(WAITING)
    with pytest.raises(ZeroDivisionError):
        carried_out(stretch(), meanwhile=lambda cluster, one, line: 1 / 0)
    assert (tmp_path / "asked").read_text() == "asked\n"


def test_nothing_listens_beyond_this_machine():
    with StopSignals() as signals, Cluster(Jobs(2), signals):
        sockets = {file.readlink().name for file in Path("/proc/self/fd").iterdir() if file.is_symlink()}
        tables = [Path(f"/proc/self/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
        rows = [line.split() for table in tables for line in table]
        own = [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]
    assert {address.partition(":")[0] for address in own} == {"0100007F"}


@pytest.fixture
def silent():
    """The address of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:9", "silent", "http://127.0.0.1:9", "tcp://", "tls://127.0.0.1:9", "a\0b"]
)
def test_a_scheduler_that_is_not_there_is_refused(address, silent, monkeypatch):
    monkeypatch.setattr("ffds.jobs.cluster.CONNECT_SECONDS", 0.4)
    with pytest.raises(InputError, match=r"no Dask scheduler(.|\n)*--scheduler"):
        carried_out(jobs=Jobs(scheduler=silent if address == "silent" else address))


def test_a_signal_ends_the_waiting_for_a_scheduler_that_says_nothing(silent, monkeypatch):
    monkeypatch.setattr("ffds.jobs.cluster.CONNECT_SECONDS", processes.LIMIT)
    wait = asyncio.wait

    def interrupted(*given, **how):
        signal.raise_signal(signal.SIGTERM)
        return wait(*given, **how)

    monkeypatch.setattr(asyncio, "wait", interrupted)
    with pytest.raises(Interrupted, match="SIGTERM: no scheduler had answered"):
        carried_out(jobs=Jobs(scheduler=silent))
