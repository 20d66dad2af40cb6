"""A sweep from its plan to its end, interrupted anywhere; runs train by formula."""

import contextlib
import re
import signal
from pathlib import Path
from statistics import median

import optuna
import pytest

from ffds.errors import InputError, Interrupted, NonFiniteLossError
from ffds.files import try_lock
from ffds.run_directory import Run
from ffds.sweep import search
from ffds.sweep.search import Objective, sweep
from ffds.sweep.space import searched_recipe, with_validation
from tests.sweep import made


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sweep that nothing interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        made.use(patch)
        found = made.swept(tmp_path_factory.mktemp("whole"))
    assert {one.result for one in found.trials} == {"finished", "stopped early"}
    return found


# What it does


def test_every_trial_is_a_run_of_its_own_and_the_first_has_the_settings_of_the_recipe(whole):
    recipe = with_validation(searched_recipe("digits", made.SETTINGS))
    assert whole.trials[0].run == Run.of(recipe, whole.directory.parents[1]).path
    assert len({one.run for one in whole.trials}) == 9
    for one in whole.trials:
        run = Run(one.run)
        assert run.done == (one.result == "finished")
        assert one.score == made.score(run.recipe, one.epoch)
        assert run.recipe.data.validation == 0.1
        assert {key: getattr(run.recipe.method, key) for key in one.settings} == one.settings


def test_a_trial_is_stopped_below_the_median_of_the_finished_ones(whole):
    recipes = {one.number: Run(one.run).recipe for one in whole.trials}
    for place, one in enumerate(whole.trials):
        before = [other for other in whole.trials[:place] if other.result == "finished"]
        behind = [
            epoch
            for epoch in range(made.START + 1, made.EPOCHS)
            if len(before) >= 5
            and made.score(recipes[one.number], epoch)
            < median(made.score(recipes[other.number], epoch) for other in before)
        ]
        assert one.epoch == min([*behind, made.EPOCHS])


def test_a_larger_number_of_trials_goes_on_in_silence(whole, tmp_path, monkeypatch, capsys):
    made.use(monkeypatch)
    for trials in (1, 1, 4, 9, 5):
        found = made.swept(tmp_path, trials=trials)
    assert made.outcome(found) == made.outcome(whole)
    assert capsys.readouterr() == ("", "")


# Interruptions and failures


@pytest.mark.parametrize("epochs", [3, 10, 19, 37])
def test_interrupted_anywhere_again_and_again_the_same_call_goes_on(epochs, whole, tmp_path, monkeypatch):
    found, trained = None, 0
    while found is None:
        trainer = made.use(monkeypatch, made.Trainer(interrupt=epochs))
        with contextlib.suppress(Interrupted):
            found = made.swept(tmp_path)
        trained += len(trainer.trained)
    assert made.outcome(found) == made.outcome(whole)
    assert trained == sum(one.epoch for one in whole.trials), "no epoch twice"


@pytest.mark.parametrize("error", [ZeroDivisionError, NonFiniteLossError])
def test_a_bug_and_a_failure_of_the_common_epochs_end_it_and_lose_no_trial(
    error, whole, tmp_path, monkeypatch
):
    def broken(recipe, epoch):
        if epoch == 3:
            raise error("in epoch 3")

    made.use(monkeypatch, made.Trainer(diverges=broken))
    with pytest.raises(error, match="epoch 3"):
        made.swept(tmp_path)
    made.use(monkeypatch)
    assert made.outcome(made.swept(tmp_path)) == made.outcome(whole)


def test_a_trial_that_fails_is_told_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    def diverges(recipe, epoch):
        return recipe.method.num_groups == 10 and epoch == 6

    made.use(monkeypatch, made.Trainer(diverges=diverges))
    found = made.swept(tmp_path, shown=True)
    failed = found.having("failed")
    assert failed
    assert {one.cause for one in failed} == {"loss is not finite in epoch 6"}
    assert {one.settings["num_groups"] for one in failed} == {10}
    assert {one.settings["num_groups"] for one in found.having("finished")} == {3, 5}
    assert len(found.trials) == 9
    assert "failed: loss is not finite in epoch 6" in capsys.readouterr().err
    assert made.outcome(made.swept(tmp_path)) == made.outcome(found), "a failure is not tried again"


def test_a_trial_whose_settings_are_not_the_cause_is_tried_again(whole, tmp_path, monkeypatch, capsys):
    """Such as one of which a file is damaged: the others go on, and the search does not learn from it."""

    def stopped(recipe, epoch):
        if recipe.method.num_groups == 10 and epoch == 6:
            raise InputError("a file of the run is damaged", where="here")

    made.use(monkeypatch, made.Trainer(diverges=stopped))
    found = made.swept(tmp_path, shown=True)
    unfinished = found.having("unfinished")
    assert {one.cause for one in unfinished} == {"a file of the run is damaged where: here"}
    assert f"unfinished: {unfinished[0].cause}" in capsys.readouterr().err
    assert len(found.trials) == 9
    assert {one.settings["num_groups"] for one in found.having("finished")} == {3, 5}
    assert "finished, " in found.tally
    assert f"{len(unfinished)} unfinished" in found.tally
    made.use(monkeypatch)
    again = made.swept(tmp_path)
    assert len(again.trials) == 9
    assert not again.having("unfinished")


@pytest.mark.parametrize("content", ["{", '{"epoch": 1}\n{"epoch": 3}\n', "[" * 100_000 + "\n"])
def test_metrics_of_a_trial_that_are_damaged(content, whole, tmp_path, monkeypatch):
    made.use(monkeypatch, made.Trainer(interrupt=2.5 * made.EPOCHS))
    with contextlib.suppress(Interrupted):
        made.swept(tmp_path)
    begun = next(path.parent for path in tmp_path.rglob("metrics.jsonl") if not Run(path.parent).done)
    kept = (begun / "metrics.jsonl").read_text()
    (begun / "metrics.jsonl").write_text(content)
    made.use(monkeypatch)
    (unfinished,) = made.swept(tmp_path).having("unfinished")
    assert "metrics.jsonl" in unfinished.cause
    (begun / "metrics.jsonl").write_text(kept)
    assert not made.swept(tmp_path).having("unfinished")


def test_a_database_that_is_damaged_meanwhile(tmp_path, monkeypatch):
    file = tmp_path / "study.db"

    def overwrite(recipe, epoch):
        if epoch == 6:
            file.write_bytes(b"no database" * 10_000)
        return False

    made.use(monkeypatch, made.Trainer(diverges=overwrite))
    with pytest.raises(InputError, match="the storage of the study failed") as caught:
        made.swept(tmp_path, storage=f"sqlite:///{file}")
    assert "--storage" in str(caught.value)
    with pytest.raises(InputError, match="the storage cannot be opened"):
        made.swept(tmp_path, storage=f"sqlite:///{file}")


def test_a_signal_between_trials(whole, tmp_path, monkeypatch):
    made.use(monkeypatch)
    with monkeypatch.context() as patch:
        tell = optuna.Study.tell

        def signalled(*given, **how):
            signal.raise_signal(signal.SIGTERM)
            return tell(*given, **how)

        patch.setattr(optuna.Study, "tell", signalled)
        with pytest.raises(Interrupted, match="SIGTERM: the same command goes on"):
            made.swept(tmp_path)
    assert made.outcome(made.swept(tmp_path)) == made.outcome(whole)


def test_a_second_command_on_the_same_study_is_refused(whole, tmp_path, monkeypatch):
    made.use(monkeypatch)
    found = made.swept(tmp_path, trials=1)
    lock = try_lock(found.directory / f"{found.study}.lock")
    with lock, pytest.raises(InputError, match="another command works on this study"):
        made.swept(tmp_path)
    assert made.outcome(made.swept(tmp_path)) == made.outcome(whole)


def test_with_one_phase_nothing_is_shared(tmp_path, monkeypatch, capsys):
    made.use(monkeypatch)
    found = sweep("digits", ["schedule.epochs=8", "method=ffds"], trials=2, out=tmp_path)
    assert [one.epoch for one in found.trials] == [8, 8]
    told = capsys.readouterr().err
    assert "share" not in told
    assert not list(tmp_path.glob("digits/trajectories/*"))


# What is told, what is refused


def test_the_plan_comes_first(tmp_path, monkeypatch, capsys):
    made.use(monkeypatch)
    made.swept(tmp_path, trials=3, shown=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "sweep of digits d-ffds: 3 of 3 trials to train"
    assert lines[3] == "  a trial:  8 epochs, the first 4 trained once for all; then at most 12 to train"
    assert lines[6] == "  test set: not used"
    trials = [line.partition(":")[0] for line in lines if line.startswith("trial ")]
    assert trials == ["trial 0", "trial 1", "trial 2"]
    made.swept(tmp_path, trials=5, shown=True)
    again = capsys.readouterr().err.splitlines()
    assert again[0] == "sweep of digits d-ffds: 2 of 5 trials to train"
    assert again[2] == "  so far:   3 finished"


@pytest.mark.parametrize(
    ("overrides", "trials", "words"),
    [([], 0, "needs a trial"), (["method.num_groups=11"], 9, "num_groups")],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    overrides, trials, words, tmp_path, monkeypatch
):
    made.use(monkeypatch)
    with pytest.raises(InputError, match=words):
        made.swept(tmp_path, *overrides, trials=trials)
    assert not list(tmp_path.iterdir())


def test_a_directory_that_cannot_be_written(tmp_path, monkeypatch):
    made.use(monkeypatch)
    (tmp_path / "digits").touch()
    with pytest.raises(InputError, match="cannot write the directory"):
        made.swept(tmp_path)


# One trial


class Told:
    """In place of a trial: remembers what it is told, asks to stop after one epoch."""

    def __init__(self, stop=None):
        self.stop, self.told = stop, {}

    def report(self, value, step):
        assert step not in self.told, "told once"
        self.told[step] = value

    def should_prune(self):
        return max(self.told) == self.stop


def reported(trial, recipe, out):
    """Train a run and report each epoch."""
    objective = Objective(trial, recipe, out)
    made.Trainer()(recipe, out, after_epoch=lambda entry: objective.report())
    return objective


LAST_PHASE = [(made.SETTINGS, [5, 6, 7, 8]), (["schedule.epochs=3", "method=ffds"], [1, 2, 3])]


@pytest.mark.parametrize(("settings", "epochs"), LAST_PHASE)
def test_each_epoch_of_the_last_phase_is_reported_once(settings, epochs, tmp_path):
    recipe, trial = searched_recipe("digits", settings), Told()
    objective = reported(trial, recipe, tmp_path)
    objective.report()
    assert trial.told == pytest.approx({epoch: made.score(recipe, epoch) for epoch in epochs})
    assert objective.score == trial.told[epochs[-1]]
    again = Told()
    Objective(again, recipe, tmp_path).report()
    assert again.told == trial.told, "what is on disk is reported to another session"


@pytest.mark.parametrize("stop", [5, 7])
def test_it_stops_after_the_epoch_it_is_asked_to(stop, tmp_path):
    recipe, trial, again = searched_recipe("digits", made.SETTINGS), Told(stop), Told(stop)
    with pytest.raises(optuna.TrialPruned):
        reported(trial, recipe, tmp_path)
    assert max(trial.told) == stop
    assert not Run.of(recipe, tmp_path).done
    with pytest.raises(optuna.TrialPruned):
        Objective(again, recipe, tmp_path).report()
    assert again.told == trial.told, "what is on disk decides"


def test_after_the_last_epoch_there_is_nothing_to_stop(tmp_path):
    assert reported(Told(made.EPOCHS), searched_recipe("digits", made.SETTINGS), tmp_path).run.done


def test_no_source_of_a_sweep_names_the_test_set():
    for file in Path(search.__file__).parent.glob("*.py"):
        names = re.findall(r"""\.test\b|["']test["']|best_on_test""", file.read_text(encoding="utf-8"))
        assert not names, f"{file.name}: {names}"
