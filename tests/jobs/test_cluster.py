"""What passes between the command, Dask and the processes; shell scripts stand for the training."""

import json
import signal
import sys
from pathlib import Path

import dask
import pytest

from ffds.errors import FfdsError, InputError, Interrupted, NonFiniteLossError
from ffds.jobs.cluster import RETRIES, Cluster, Ended
from ffds.jobs.options import Jobs
from ffds.jobs.plan import Stretch
from ffds.run_directory import Run
from ffds.training.signals import StopSignals
from tests.training import tiny


@pytest.fixture
def script(monkeypatch, tmp_path):
    """Put a shell script in place of `python -m ffds.jobs.stretch`; its order is in $order."""

    def put(text):
        file = tmp_path / "script"
        file.write_text(f"#!/bin/sh\nread -r order\n{text}\n")
        file.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(file))

    return put


def stretch(out, method="ce", until=4, after=None):
    recipe = tiny.recipe(method=method)
    return Stretch(recipe, Run.of(recipe, out), until, frozenset({2}), after)


def carried_out(stretches, jobs=None, signals=None):
    """What was said and how each ended."""
    lines, ends = [], {}
    with StopSignals() as own, Cluster(jobs or Jobs(2), signals or own) as cluster:
        for one in stretches:
            cluster.submit(one)
        for one, message in cluster.messages():
            if isinstance(message, Ended):
                ends[one] = message
            else:
                lines.append(message)
    return lines, ends


def test_order_and_lines(script, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ffds", "compare", "a b"])
    script('echo "$order" >&2; pwd >&2; echo $OMP_NUM_THREADS >&2; printf unfinished >&2')
    one = stretch(tmp_path)
    lines, ends = carried_out([one])
    assert ends == {one: Ended(0)}
    order = json.loads(lines[0])
    assert {key: order[key] for key in ("out", "until", "branches", "arguments")} == {
        "out": str(tmp_path),
        "until": 4,
        "branches": [2],
        "arguments": ["ffds", "compare", "a b"],
    }
    assert type(one.recipe).model_validate_json(order["recipe"]) == one.recipe
    assert lines[1:] == [order["directory"], "1", "unfinished"]


def test_each_worker_has_a_device(script, tmp_path):
    script("echo $CUDA_VISIBLE_DEVICES >&2; sleep 0.3")
    lines, _ = carried_out([stretch(tmp_path), stretch(tmp_path)], Jobs(2, (3, 1)))
    assert sorted(lines) == ["1", "3"]


def test_a_stretch_begins_when_the_one_before_it_has_ended(script, tmp_path):
    script(f"echo $order | grep -o '\"until\": .' >> {tmp_path}/order; sleep 0.1")
    first = stretch(tmp_path, until=1)
    second = stretch(tmp_path, until=2, after=first)
    _, ends = carried_out([first, second, stretch(tmp_path, until=3, after=second)])
    assert [ended.code for ended in ends.values()] == [0, 0, 0]
    assert (tmp_path / "order").read_text().split() == ['"until":', "1", '"until":', "2", '"until":', "3"]


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        (2, InputError, "wrong"),
        (3, NonFiniteLossError, "wrong"),
        (1, FfdsError, "wrong"),
        (1, FfdsError, ""),
    ],
)
def test_a_failure_is_an_end_and_what_depends_on_it_does_not_begin(code, kind, text, script, tmp_path):
    script(f"case $order in *'\"until\": 1'*) printf '{text}'; exit {code};; esac")
    first, other = stretch(tmp_path, until=1), stretch(tmp_path, until=4)
    _, ends = carried_out([first, other, stretch(tmp_path, until=2, after=first)])
    assert ends == {first: ends[first], other: Ended(0)}
    error = ends[first].error
    assert type(error) is kind
    assert str(error) == (text or f"the process that trained it ended with exit code {code}")


@pytest.mark.parametrize("end", ["kill -KILL $$", "exit 75"])
def test_a_process_that_is_killed_is_tried_again(end, script, tmp_path):
    script(f"echo x >> {tmp_path}/tries; test $(wc -l < {tmp_path}/tries) = {RETRIES + 1} || {end}")
    one = stretch(tmp_path)
    assert carried_out([one])[1] == {one: Ended(0)}
    assert (tmp_path / "tries").read_text() == "x\n" * (RETRIES + 1)


def test_a_process_that_is_killed_each_time_fails(script, tmp_path):
    script("kill -KILL $$")
    one, other = stretch(tmp_path), stretch(tmp_path)
    _, ends = carried_out([one, stretch(tmp_path, after=one), stretch(tmp_path, after=other)][:2])
    assert ends == {one: ends[one]}
    assert ends[one].code == 1
    assert "ended by SIGKILL; the same command goes on" in ends[one].message


WAITING = "trap 'echo asked >> {}/asked; exit 75' TERM; echo begun >&2; while :; do sleep 0.05; done"


def test_a_signal_asks_each_process_once_and_begins_no_other(script, tmp_path):
    script(WAITING.format(tmp_path))
    first, second = stretch(tmp_path), stretch(tmp_path)
    begun = []
    with StopSignals() as signals, Cluster(Jobs(2), signals) as cluster:
        for one in (first, second, stretch(tmp_path, after=first), stretch(tmp_path)):
            cluster.submit(one)
        messages = cluster.messages()
        while len(begun) < 2:
            begun.append(next(messages))
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted, match="SIGINT"):
            begun += [one for one in messages if one[1] == "begun"]
    assert len(begun) == 2
    assert {one for one, _ in begun} == {first, second}
    assert (tmp_path / "asked").read_text() == "asked\n" * 2


def test_one_stretch_is_stopped_and_the_others_go_on(script, tmp_path):
    script(f"case $order in *'\"until\": 1'*) {WAITING.format(tmp_path)};; esac; echo begun >&2")
    first, second = stretch(tmp_path, until=1), stretch(tmp_path, until=2)
    ends = {}
    with StopSignals() as signals, Cluster(Jobs(2), signals) as cluster:
        cluster.submit(first)
        cluster.submit(second)
        for one, message in cluster.messages():
            if isinstance(message, Ended):
                ends[one] = message.code
            elif one is first:
                cluster.stop(first)
    assert ends == {first: 75, second: 0}


def test_no_process_is_left_when_the_command_fails(script, tmp_path):
    script(WAITING.format(tmp_path))

    def fails():
        with StopSignals() as signals, Cluster(Jobs(2), signals) as cluster:
            cluster.submit(stretch(tmp_path))
            next(cluster.messages())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert (tmp_path / "asked").read_text() == "asked\n"


def test_nothing_listens_beyond_this_machine():
    with StopSignals() as signals, Cluster(Jobs(2), signals):
        sockets = {file.readlink().name for file in Path("/proc/self/fd").iterdir() if file.is_symlink()}
        tables = [Path(f"/proc/self/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
        rows = [line.split() for table in tables for line in table]
        own = [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]
    assert {address.partition(":")[0] for address in own} == {"0100007F"}


def test_a_scheduler_that_is_not_there_is_refused(monkeypatch):
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "100ms"}),
        StopSignals() as signals,
        pytest.raises(InputError, match="no Dask scheduler") as caught,
        Cluster(Jobs(scheduler="tcp://127.0.0.1:9"), signals),
    ):
        pass
    assert "--scheduler" in str(caught.value)
