"""Runs that share epochs, trained one after the other: an end or a failure in between loses nothing."""

import signal

import pytest

from ffds.errors import Interrupted
from ffds.jobs.engine import train_all
from ffds.run_directory import Run
from tests.training import tiny

CE, DEFERRED = tiny.recipe(method="ce"), tiny.recipe()


@pytest.fixture(autouse=True)
def tiny_digits(monkeypatch):
    tiny.use(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        tiny.use(patch)
        assert train_all([CE, DEFERRED], out=out, shown=False) == {}
    return traces(out)


def traces(out):
    return [tiny.trace(Run.of(one, out)) for one in (CE, DEFERRED)]


@pytest.mark.parametrize("polls", range(1, 2 * tiny.EPOCHS * tiny.POLLS, 3))
def test_interrupted_anywhere_the_same_call_goes_on(polls, whole, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        stopper = tiny.StopAfter(polls)
        patch.setattr("ffds.training.train.StopSignals", lambda: stopper)
        try:
            train_all([CE, DEFERRED], out=tmp_path, shown=False)
        except Interrupted:
            assert not all(Run.of(one, tmp_path).done for one in (CE, DEFERRED))
    train_all([CE, DEFERRED], out=tmp_path, shown=False)
    assert traces(tmp_path) == whole


def test_a_signal_too_late_for_one_run_ends_the_work(tmp_path, monkeypatch):
    finish = Run.finish

    def signalled(run, summary):
        signal.raise_signal(signal.SIGTERM)
        finish(run, summary)

    monkeypatch.setattr(Run, "finish", signalled)
    with pytest.raises(Interrupted, match="SIGTERM"):
        train_all([CE, DEFERRED], out=tmp_path, shown=False)
    assert [Run.of(one, tmp_path).done for one in (CE, DEFERRED)] == [True, False]


def test_a_failed_run_leaves_a_gap_and_the_others_go_on(whole, capsys, tmp_path):
    diverging = tiny.recipe("optimizer.lr=1e30", method="ce")
    failures = train_all([diverging, DEFERRED], out=tmp_path, shown=False)
    assert list(failures) == [Run.of(diverging, tmp_path).path]
    assert "not finite" in capsys.readouterr().err
    assert tiny.trace(Run.of(DEFERRED, tmp_path)) == whole[1]
