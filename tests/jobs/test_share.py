"""Processes started by hand on one directory: each epoch once, nobody waits for ever, equal bit by bit."""

import os
import signal
import threading
from collections import Counter

import pytest

from ffds.errors import Interrupted, NonFiniteLossError
from ffds.jobs.claim import claimed
from ffds.jobs.journal import Journal
from ffds.jobs.plan import plan
from ffds.jobs.several import train_all
from ffds.jobs.share import Share
from ffds.recipes.schedule import start_epoch
from ffds.run_directory import Run
from ffds.training.signals import StopSignals
from ffds.training.train import train_recipe
from ffds.training.trajectory import Trajectory
from tests.said import heard
from tests.training import processes, tiny

METHODS = ("ce", "ib", "d-ffds", "fl")
EPOCHS = 6
IB, DEFERRED = (
    start_epoch(tiny.recipe(f"schedule.epochs={EPOCHS}", method=m).method, EPOCHS) for m in ("ib", "d-ffds")
)
ONCE = 2 * EPOCHS + (EPOCHS - IB) + (EPOCHS - DEFERRED)


def recipes(*methods):
    return [tiny.recipe(f"schedule.epochs={EPOCHS}", method=method) for method in methods or METHODS]


def traces(out, wanted):
    return [tiny.trace(Run.of(one, out)) for one in wanted]


@pytest.fixture(autouse=True)
def digits(monkeypatch):
    tiny.use(monkeypatch)
    monkeypatch.setattr("ffds.jobs.share._SECONDS", 0.01)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Each method trained by itself, which nothing can have mixed up."""
    out = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        tiny.use(patch)
        for number, one in enumerate(recipes()):
            train_recipe(one, out=out / str(number), shown=False)
    return [tiny.trace(Run.of(one, out / str(number))) for number, one in enumerate(recipes())]


def work(out, *, epochs="epochs", pause=lambda run, entry: None, methods=METHODS):
    """The work of one process; a line for each epoch that it trains."""
    add_epoch = Run.add_epoch

    def noted(run, entry):
        with (out / epochs).open("a") as file:
            file.write(f"{run.path.parent.name} {entry['epoch']}\n")
        pause(run, entry)
        add_epoch(run, entry)

    with pytest.MonkeyPatch.context() as patch:
        tiny.use(patch)
        patch.setattr("ffds.jobs.share._SECONDS", 0.01)
        patch.setattr(Run, "add_epoch", noted)
        return {path.parent.name: str(e) for path, e in train_all(recipes(*methods), out=out).items()}


def epochs(out):
    return Counter((out / "epochs").read_text().splitlines())


def worked(out):
    return 1 if work(out) else 0


def killed_in(out, method, epoch):
    def kill(run, entry):
        if run.path.parent.name == method and entry["epoch"] == epoch:
            processes.kill_self()

    work(out, pause=kill)


# Each epoch once


def test_the_stretches_of_this_plan():
    assert 0 < IB < DEFERRED < EPOCHS


def test_several_processes_train_each_epoch_once(tmp_path, alone):
    group = [processes.forked(worked, tmp_path, log=tmp_path / f"log{number}") for number in range(3)]
    logs = [tmp_path / f"log{number}" for number in range(3)]
    assert [processes.exit_code(one) for one in group] == [0] * 3, "".join(log.read_text() for log in logs)
    found = epochs(tmp_path)
    assert set(found.values()) == {1}
    assert len(found) == ONCE
    assert traces(tmp_path, recipes()) == alone


def test_a_plan_made_at_any_time_says_what_is_left_to_train(tmp_path):
    left, branches = [], []

    def look(run, entry):
        runs = [one for one in plan(recipes(), tmp_path).runs if not one.run.done]
        left.append(sum(one.to_train for one in runs))
        branches.append({one.recipe.method.name: one.branches for one in runs})

    work(tmp_path, pause=look)
    # An epoch is done when its checkpoint is there.
    assert left == list(range(ONCE, 0, -1))
    assert branches[0] == {"ce": {IB, DEFERRED}, "ib": {IB}, "d-ffds": {IB, DEFERRED}, "fl": set()}
    assert branches[EPOCHS - 1] == branches[0], "they do not depend on how far a run is"


def test_who_goes_on_from_epochs_that_are_trained_waits_for_them_alone(tmp_path, alone):
    """While CE is between its branches, IB is free and D-FFDS is not."""
    free = []
    ce, ib, deferred, fl = plan(recipes(), tmp_path).runs

    def look(run, entry):
        if run == ce.run:
            with claimed(ib) as first, claimed(deferred) as second, claimed(fl) as third, claimed(ce) as own:
                free.append([claim is not None for claim in (first, second, third, own)])

    work(tmp_path, pause=look, methods=("ce", "ib", "d-ffds"))
    assert free[:IB] == [[False, False, True, False]] * IB
    assert free[IB:DEFERRED] == [[True, False, True, False]] * (DEFERRED - IB)
    assert free[DEFERRED:] == [[True, True, True, False]] * (EPOCHS - DEFERRED)


def test_of_two_that_wait_one_trains_what_they_share(tmp_path):
    ib, deferred = plan(recipes("ib", "d-ffds"), tmp_path).runs
    with claimed(deferred) as first, claimed(ib) as second:
        assert first is not None
        assert first.branches == (IB,)
        assert second is None
        first.reached({"epoch": IB})
        with claimed(ib) as third:
            assert third is not None, "the stretch is free, and whoever has it trains it"
    with claimed(ib) as fourth:
        assert fourth is not None


def test_a_claim_is_taken_whole_or_not_at_all(tmp_path):
    ce, ib, deferred = plan(recipes("ce", "ib", "d-ffds"), tmp_path).runs
    late = ce.trajectory.lock(DEFERRED)
    with claimed(deferred) as claim:
        assert claim is None
        with claimed(ib) as other:
            assert other is not None, "the right to the earlier epochs was given back"
    late.close()
    with claimed(deferred) as claim:
        assert claim.branches == (IB, DEFERRED)


def test_what_is_on_disk_is_not_claimed(tmp_path):
    work(tmp_path, methods=("ce", "ib", "d-ffds"))
    (again,) = plan([tiny.recipe(f"schedule.epochs={EPOCHS}", "method.k=0.5")], tmp_path).runs
    assert again.shared == DEFERRED
    right = again.trajectory.lock(DEFERRED)
    with claimed(again) as claim:
        assert claim is not None
    right.close()


def test_a_finished_run_is_not_claimed(tmp_path):
    before = plan(recipes("fl"), tmp_path).runs
    work(tmp_path, methods=("fl",))
    for one in (*before, *plan(recipes("fl"), tmp_path).runs):
        with claimed(one) as claim:
            assert claim is None


def test_half_a_checkpoint_is_none(tmp_path):
    (one,) = plan(recipes("ce"), tmp_path).runs
    trajectory: Trajectory = one.trajectory
    (trajectory.directory / trajectory.histories[DEFERRED][:16] / f"epoch-{DEFERRED:04d}.tmp").mkdir(
        parents=True
    )
    assert not trajectory.has(DEFERRED)
    assert trajectory.newest() == 0


# Killed, failed, interrupted


@pytest.mark.parametrize(("method", "epoch"), [("ce", 2), ("d-ffds", EPOCHS)])
def test_what_a_killed_process_trained_is_taken_over(method, epoch, tmp_path, alone):
    """The other process does not wait for the dead, and trains one epoch again: the one that was cut off."""
    victim = processes.forked(killed_in, tmp_path, method, epoch, log=tmp_path / "log0")
    other = processes.forked(worked, tmp_path, log=tmp_path / "log1")
    codes = {processes.exit_code(victim), processes.exit_code(other)}
    assert codes <= {0, -signal.SIGKILL}, (tmp_path / "log1").read_text()
    assert worked(tmp_path) == 0
    twice = {line for line, times in epochs(tmp_path).items() if times > 1}
    assert twice <= {f"{method} {epoch}"}
    assert traces(tmp_path, recipes()) == alone


def test_a_run_that_fails_leaves_a_gap_in_each_process(tmp_path, alone):
    group = [processes.forked(fails, tmp_path, log=tmp_path / f"log{number}") for number in range(2)]
    assert [processes.exit_code(one) for one in group] == [3, 3]
    ce, *others = recipes()
    assert not Run.of(ce, tmp_path).done
    assert traces(tmp_path, others) == alone[1:]
    found = epochs(tmp_path)
    assert all(times == 1 for line, times in found.items() if not line.startswith("ce"))
    assert [line in found for line in ("ib 2", "d-ffds 2")].count(True) == 1, "CE could not hand it on"


def fails(out):
    def fail(run, entry):
        if run.path.parent.name == "ce" and entry["epoch"] >= 2:
            raise NonFiniteLossError("not finite")

    return 3 if work(out, pause=fail) == {"ce": "not finite"} else 1


WAITING = "waiting for what other processes train: digits/ce/seed0-"


def test_a_signal_while_it_waits_ends_it(tmp_path):
    (ce,) = plan(recipes("ce"), tmp_path).runs

    def send():
        try:
            said.wait_for(WAITING)
        finally:
            # Also where it was never said: nothing else ends the waiting.
            os.kill(os.getpid(), signal.SIGTERM)

    with heard() as said, claimed(ce) as claim:
        assert claim is not None
        threading.Thread(target=send).start()
        with pytest.raises(Interrupted, match="SIGTERM"):
            train_all(recipes("ce"), out=tmp_path)
    assert said.getvalue().count(WAITING) == 1


def test_a_signal_too_late_for_one_run_ends_the_work(tmp_path, monkeypatch):
    finish = Run.finish

    def signalled(run, summary):
        signal.raise_signal(signal.SIGTERM)
        finish(run, summary)

    monkeypatch.setattr(Run, "finish", signalled)
    with pytest.raises(Interrupted, match="SIGTERM"):
        train_all(recipes("ce", "fl"), out=tmp_path, shown=False)
    ce, fl = (Run.of(one, tmp_path) for one in recipes("ce", "fl"))
    assert ce.done
    assert not fl.path.exists()
    assert train_all(recipes("ce"), out=tmp_path, shown=False) == {}


def test_a_request_is_heard_by_all_that_are_entered():
    with StopSignals() as outer:
        with StopSignals() as inner:
            signal.raise_signal(signal.SIGTERM)
            assert inner.requested is signal.SIGTERM
        assert outer.requested is signal.SIGTERM
    with StopSignals() as later:
        assert later.requested is None


def test_a_run_that_another_process_trains_alone_is_waited_for(tmp_path, alone):
    """Such as by `ffds train`, which claims nothing."""
    ce, fl = recipes("ce", "fl")
    found = []
    thread = threading.Thread(target=lambda: found.append(train_all([ce, fl], out=tmp_path)))
    with heard() as said, Run.of(ce, tmp_path).locked():
        thread.start()
        said.wait_for(WAITING, thread.is_alive)
        assert Run.of(fl, tmp_path).done
        assert not (Run.of(ce, tmp_path).path / "metrics.jsonl").exists()
    thread.join(processes.LIMIT)
    assert found == [{}]
    assert traces(tmp_path, [ce, fl]) == [alone[0], alone[3]]


def test_a_run_that_killed_a_process_of_the_command_kills_no_other(tmp_path):
    """It is free again, but a gap: for lack of memory, say, it would take every process with it."""
    journal = Journal(tmp_path / "journal")
    share = Share(tmp_path, shown=False, journal=journal)
    (one,) = plan(recipes("ce"), tmp_path).runs
    journal.begin(0, one.run.path)
    assert not share._begin(one)
    assert not one.run.checkpoints.exists()
