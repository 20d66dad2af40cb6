"""Callbacks from Python: what they are told, and what becomes of a run when one of them raises."""

import pytest

from ffds.errors import InputError
from ffds.run_directory import Run
from tests.training import processes, tiny


class Heard:
    def __init__(self, until=99):
        self.heard, self.until = [], until

    def on_train_start(self, run, recipe):
        assert (run.path / "recipe.yaml").is_file()
        self.heard.append(recipe.name)

    def on_epoch_end(self, run, entry):
        assert run.metrics[-1] == entry
        self.heard.append(entry["epoch"])
        if entry["epoch"] == self.until:
            raise ZeroDivisionError("enough")

    def on_train_end(self, run, summary):
        assert run.done
        self.heard.append(summary["epochs"])


class Epochs:
    on_other = None

    def __init__(self):
        self.seen = []

    def on_epoch_end(self, run, entry):
        self.seen.append(entry["epoch"])


def test_one_that_raises_stops_the_training_after_a_saved_epoch(tmp_path, d_ffds):
    recipe, whole = tiny.recipe("trainer.checkpoint_every=9"), d_ffds[1]
    first, other = Heard(until=2), Epochs()
    with pytest.raises(ZeroDivisionError, match="enough") as raised:
        tiny.train(recipe, tmp_path, callbacks=[first, other])
    run = Run.of(recipe, tmp_path)
    assert "callback Heard.on_epoch_end" in raised.value.__notes__[0]
    assert [path.name for path in run.checkpoints.iterdir()] == ["epoch-0002"]
    again = Heard()
    tiny.train(recipe, tmp_path, callbacks=[again, other])
    assert (first.heard, again.heard) == (["digits", 1, 2], ["digits", 3, 4, 4])
    assert other.seen == [1, 2, 3, 4], "it heard of the epoch in which the first one raised"
    assert tiny.trace(run) == tiny.trace(whole)
    tiny.train(recipe, tmp_path, callbacks=[finished := Heard()])
    assert finished.heard == []


@pytest.mark.parametrize("event", ["on_train_start", "on_train_end"])
def test_one_that_raises_before_or_after_the_epochs(event, tmp_path):
    callback = Heard()
    setattr(callback, event, lambda run, told: 1 / 0)
    recipe = tiny.recipe("schedule.epochs=1", method="ce")
    with pytest.raises(ZeroDivisionError) as raised:
        tiny.train(recipe, tmp_path, callbacks=[callback])
    assert f"Heard.{event}" in raised.value.__notes__[0]
    assert Run.of(recipe, tmp_path).done == (event == "on_train_end")


@pytest.mark.parametrize("callback", [object(), print], ids=["object", "function"])
def test_an_object_without_any_of_the_methods_is_refused_before_anything_is_written(callback, tmp_path):
    with pytest.raises(InputError, match="any of on_train_start"):
        tiny.train(tiny.recipe(), tmp_path, callbacks=[callback])
    assert not list(tmp_path.iterdir())


def _rank(rank, out):
    callback = Heard(until=1)
    try:
        tiny.train(tiny.recipe("trainer.checkpoint_every=9"), out, callbacks=[callback])
    except Exception as error:
        print(type(error).__name__, callback.heard, flush=True)
        return 7
    return 0


def test_of_two_ranks_the_first_calls_and_both_stop(tmp_path):
    log = tmp_path / "log"
    ranks = processes.ranks(_rank, tmp_path, log=log)
    assert [processes.exit_code(rank) for rank in ranks] == [7, 7]
    first, second = ((tmp_path / f"log-rank{rank}").read_text() for rank in range(2))
    assert "ZeroDivisionError ['digits', 1]" in first
    assert "FfdsError []" in second
    assert [path.name for path in tmp_path.glob("digits/*/*/checkpoints/*")] == ["epoch-0001"]
