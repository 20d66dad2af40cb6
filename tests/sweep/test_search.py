"""A sweep from its plan to its end, interrupted anywhere; runs train by formula."""

import contextlib
import re
import signal
from pathlib import Path

import optuna
import pytest

from ffds.errors import InputError, Interrupted, NonFiniteLossError
from ffds.files import try_lock
from ffds.jobs.cluster import Ended
from ffds.jobs.options import Jobs
from ffds.run_directory import Run
from ffds.sweep import search
from ffds.sweep.recipe import searched_recipe, with_validation
from ffds.sweep.search import Objective, balanced_accuracy, sweep
from tests.sweep import made


def swept(out, *overrides, trials=9, shown=False, **how):
    return sweep("digits", [*made.SETTINGS, *overrides], trials=trials, out=out, shown=shown, **how)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sweep that nothing interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        made.use(patch)
        found = swept(tmp_path_factory.mktemp("whole"))
    assert {one.result for one in found.trials} == {"finished", "stopped early"}
    return found


# What it does


def test_the_first_trial_has_the_settings_of_the_recipe(whole):
    recipe = searched_recipe("digits", made.SETTINGS)
    first = whole.trials[0]
    assert first.run == Run.of(with_validation(recipe), whole.directory.parents[1]).path
    assert first.score == made.score(recipe, made.EPOCHS)


def test_every_trial_is_a_run_of_its_own(whole):
    assert len({one.run for one in whole.trials}) == 9
    for one in whole.trials:
        run = Run(one.run)
        assert run.done == (one.result == "finished")
        assert one.score == made.score(run.recipe, one.epoch)
        assert run.recipe.data.validation == 0.1
        assert {key: getattr(run.recipe.method, key) for key in one.settings} == one.settings


def test_a_trial_is_stopped_below_the_median_of_the_finished_ones(whole):
    for place, one in enumerate(whole.trials):
        before = [other for other in whole.trials[:place] if other.result == "finished"]
        scores = {
            epoch: sorted(made.score(Run(other.run).recipe, epoch) for other in before)
            for epoch in range(made.START + 1, made.EPOCHS)
        }
        recipe = Run(one.run).recipe
        behind = [
            epoch
            for epoch, others in scores.items()
            if len(others) >= 5 and made.score(recipe, epoch) < median(others)
        ]
        assert one.epoch == (behind[0] if behind else made.EPOCHS)


def median(ordered):
    middle = len(ordered) // 2
    return (ordered[middle] + ordered[-middle - 1]) / 2


def test_it_learns(tmp_path, monkeypatch):
    made.use(monkeypatch)
    found = swept(tmp_path, trials=30)
    random, informed = found.trials[1:11], found.trials[18:]

    def distance(trials):
        return sum(abs(one.settings["k"] - 0.3) for one in trials) / len(trials)

    assert distance(informed) < distance(random) / 2


def test_another_seed_searches_elsewhere(whole, tmp_path, monkeypatch):
    made.use(monkeypatch)
    other = swept(tmp_path, "trainer.seed=1", trials=2)
    assert other.trials[0].settings == whole.trials[0].settings
    assert other.trials[1].settings != whole.trials[1].settings


def test_a_larger_number_of_trials_goes_on(whole, tmp_path, monkeypatch):
    made.use(monkeypatch)
    for trials in (1, 1, 4, 9, 5):
        found = swept(tmp_path, trials=trials)
    assert made.outcome(found) == made.outcome(whole)


def test_a_database(whole, tmp_path, monkeypatch):
    made.use(monkeypatch)
    found = swept(tmp_path, storage=f"sqlite:///{tmp_path}/study.db")
    assert made.outcome(found) == made.outcome(whole)
    assert not list(tmp_path.glob("digits/sweep/*.log"))


# Interruptions and failures


@pytest.mark.parametrize("epochs", range(1, 60, 9))
def test_interrupted_anywhere_the_same_call_goes_on(epochs, whole, tmp_path, monkeypatch):
    trainer = made.use(monkeypatch, made.Trainer(interrupt=epochs))
    with contextlib.suppress(Interrupted):
        swept(tmp_path)
    trained = len(trainer.trained)
    trainer = made.use(monkeypatch)
    found = swept(tmp_path)
    assert made.outcome(found) == made.outcome(whole)
    assert trained + len(trainer.trained) == sum(one.epoch for one in whole.trials), "no epoch twice"


def test_interrupted_again_and_again(whole, tmp_path, monkeypatch):
    for _ in range(100):
        made.use(monkeypatch, made.Trainer(interrupt=5))
        with contextlib.suppress(Interrupted):
            found = swept(tmp_path)
            break
    assert made.outcome(found) == made.outcome(whole)


def test_a_bug_loses_no_trial(whole, tmp_path, monkeypatch):
    def broken(recipe, epoch):
        raise ZeroDivisionError

    made.use(monkeypatch, made.Trainer(diverges=broken))
    with pytest.raises(ZeroDivisionError):
        swept(tmp_path)
    made.use(monkeypatch)
    assert made.outcome(swept(tmp_path)) == made.outcome(whole)


def test_a_trial_that_fails_is_told_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    def diverges(recipe, epoch):
        return recipe.method.num_groups == 10 and epoch == 6

    made.use(monkeypatch, made.Trainer(diverges=diverges))
    found = swept(tmp_path, shown=True)
    failed = found.having("failed")
    assert failed
    assert {one.cause for one in failed} == {"loss is not finite in epoch 6"}
    assert {one.settings["num_groups"] for one in failed} == {10}
    assert {one.settings["num_groups"] for one in found.having("finished")} == {3, 5}
    assert len(found.trials) == 9
    assert "failed: loss is not finite in epoch 6" in capsys.readouterr().err
    assert made.outcome(swept(tmp_path)) == made.outcome(found), "a failure is not tried again"


def test_a_failure_of_the_common_epochs_ends_the_sweep(whole, tmp_path, monkeypatch):
    made.use(monkeypatch, made.Trainer(diverges=lambda recipe, epoch: epoch == 3))
    with pytest.raises(NonFiniteLossError, match="epoch 3"):
        swept(tmp_path)
    made.use(monkeypatch)
    assert made.outcome(swept(tmp_path)) == made.outcome(whole)


def test_a_signal_between_trials(whole, tmp_path, monkeypatch):
    made.use(monkeypatch)
    with monkeypatch.context() as patch:
        tell = optuna.Study.tell

        def signalled(*given, **how):
            signal.raise_signal(signal.SIGTERM)
            return tell(*given, **how)

        patch.setattr(optuna.Study, "tell", signalled)
        with pytest.raises(Interrupted, match="SIGTERM: the same command goes on"):
            swept(tmp_path)
    assert made.outcome(swept(tmp_path)) == made.outcome(whole)


def test_a_second_command_on_the_same_study_is_refused(whole, tmp_path, monkeypatch):
    made.use(monkeypatch)
    found = swept(tmp_path, trials=1)
    lock = try_lock(found.directory / f"{found.study}.lock")
    with lock, pytest.raises(InputError, match="another command works on this study"):
        swept(tmp_path)
    assert made.outcome(swept(tmp_path)) == made.outcome(whole)


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
    found = swept(tmp_path, trials=3, shown=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:7] == [
        "sweep of digits d-ffds: 3 of 3 trials to train",
        f"  study:    {found.study}",
        "  so far:   nothing",
        "  a trial:  8 epochs, the first 4 trained once for all; then at most 12 to train",
        "  score:    balanced accuracy after the last epoch on 20 validation images of 10 of 10 classes, "
        "held out of training",
        "  searched: β ∈ {0.9, 0.99, 0.999, 0.9999}, k ∈ [0, 1], M ∈ {3, 5, 10}, 0 ≤ γ_min ≤ γ_max ≤ 5, "
        "curve ∈ {linear, convex, concave}",
        "  test set: not used",
    ]
    assert [line.partition(":")[0] for line in lines if line.startswith("trial ")] == [
        "trial 0",
        "trial 1",
        "trial 2",
    ]
    swept(tmp_path, trials=5, shown=True)
    again = capsys.readouterr().err.splitlines()
    assert again[0] == "sweep of digits d-ffds: 2 of 5 trials to train"
    assert again[2] == "  so far:   3 finished"


def test_silence(tmp_path, monkeypatch, capsys):
    made.use(monkeypatch)
    swept(tmp_path, trials=2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("trials", [0, -1])
def test_a_sweep_without_a_trial_is_refused(trials, tmp_path):
    with pytest.raises(InputError, match="needs a trial"):
        swept(tmp_path, trials=trials)
    assert not list(tmp_path.iterdir())


def test_more_groups_than_classes_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    made.use(monkeypatch)
    with pytest.raises(InputError, match="num_groups"):
        swept(tmp_path, "method.num_groups=11")
    assert not list(tmp_path.iterdir())


def test_a_study_of_another_recipe_is_refused(tmp_path, monkeypatch):
    made.use(monkeypatch)
    swept(tmp_path, trials=1, study="mine")
    with pytest.raises(InputError, match=r"optimizer\.lr: 0\.05"):
        swept(tmp_path, "optimizer.lr=0.05", trials=1, study="mine")
    swept(tmp_path, "optimizer.lr=0.05", trials=1)


def test_a_directory_that_cannot_be_written(tmp_path, monkeypatch):
    made.use(monkeypatch)
    (tmp_path / "digits").touch()
    with pytest.raises(InputError, match="cannot write the directory"):
        swept(tmp_path)


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


def test_balanced_accuracy_is_the_mean_over_classes_with_images():
    assert balanced_accuracy({"per_class": [50.0, None, 100.0], "accuracy": 99.0}) == 75
    assert balanced_accuracy({"per_class": [0.0]}) == 0


@pytest.mark.parametrize(
    ("settings", "epochs"),
    [(made.SETTINGS, [5, 6, 7, 8]), (["schedule.epochs=3", "method=ffds"], [1, 2, 3])],
)
def test_each_epoch_of_the_last_phase_is_reported_once(settings, epochs, tmp_path):
    recipe, trial = searched_recipe("digits", settings), Told()
    objective = reported(trial, recipe, tmp_path)
    objective.report()
    assert trial.told == pytest.approx({epoch: made.score(recipe, epoch) for epoch in epochs})
    assert objective.score == trial.told[epochs[-1]]
    again = Told()
    Objective(again, recipe, tmp_path).report()
    assert again.told == trial.told, "what is on disk is reported to another session"


@pytest.mark.parametrize("stop", [5, 6, 7])
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


def test_only_the_validation_entry_of_an_epoch_is_read(tmp_path, monkeypatch):
    original = Run.metrics.fget

    class Sealed(dict):
        def __getitem__(self, key):
            assert key in ("epoch", "validation"), f"reads {key}"
            return super().__getitem__(key)

        get = __getitem__

    recipe = searched_recipe("digits", made.SETTINGS)
    reported(Told(), recipe, tmp_path)
    monkeypatch.setattr(Run, "metrics", property(lambda run: [Sealed(entry) for entry in original(run)]))
    trial = Told()
    Objective(trial, recipe, tmp_path).report()
    assert trial.told


def test_no_source_of_a_sweep_names_the_test_set():
    for file in Path(search.__file__).parent.glob("*.py"):
        names = re.findall(r"""\.test\b|["']test["']|best_on_test""", file.read_text(encoding="utf-8"))
        assert not names, f"{file.name}: {names}"


# Several trials at a time


class Formula:
    """In place of `Cluster`: two slots whose processes take turns, an epoch by formula each.

    A stretch that is asked to stop does one epoch more, as a process may.
    """

    slots, epochs, diverges = 2, [], staticmethod(lambda recipe, epoch: False)

    def __init__(self, jobs, signals, *, shown):
        self.queue, self.stopped, self.ended, self.signals = [], set(), set(), signals

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def submit(self, stretch):
        self.queue.append(stretch)

    def stop(self, stretch):
        self.stopped.add(stretch)

    def messages(self):
        while self.queue:
            ready = [one for one in self.queue if one.after is None or one.after in self.ended]
            assert len([one for one in self.queue if one.until == made.EPOCHS]) <= self.slots
            for stretch in ready:
                ended = self.step(stretch)
                yield stretch, "a line"
                if ended is not None:
                    self.queue.remove(stretch)
                    self.ended.add(stretch)
                    yield stretch, ended
                if self.signals.requested:
                    raise Interrupted("SIGTERM")

    def step(self, stretch):
        done, stopped = len(stretch.run.metrics), stretch in self.stopped
        trainer = made.Trainer(interrupt=1, diverges=self.diverges)
        if not done and stretch.after is not None:  # it goes on from what the other run left
            stretch.run.path.mkdir(parents=True)
            stretch.run.take_epochs(stretch.after.run.metrics[: stretch.after.until])
        elif done < stretch.until:
            try:
                trainer(stretch.recipe, stretch.run.path.parents[2], after_epoch=lambda entry: None)
            except NonFiniteLossError as error:
                return Ended(3, str(error))
            except Interrupted:
                self.epochs.append((stretch.recipe.method, done + 1))
        if len(stretch.run.metrics) >= stretch.until:
            if stretch.until == made.EPOCHS:
                stretch.run.finish({})
            return Ended(0)
        return Ended(75) if stopped else None


@pytest.fixture
def two_jobs(monkeypatch):
    made.use(monkeypatch)
    monkeypatch.setattr("ffds.sweep.search.Cluster", Formula)
    monkeypatch.setattr(Formula, "epochs", [])
    return lambda out, trials=20, **how: swept(out, trials=trials, jobs=Jobs(2), **how)


def test_two_at_a_time_share_the_common_epochs_and_stop_early(two_jobs, tmp_path):
    result = two_jobs(tmp_path)
    assert len(result.trials) == len({one.run for one in result.trials}) == 20
    assert {one.result for one in result.trials} == {"finished", "stopped early"}
    for one in result.trials:
        assert one.score == pytest.approx(made.score(Run(one.run).recipe, one.epoch))
    assert len([epoch for _, epoch in Formula.epochs if epoch <= made.START]) == made.START
    assert len(Formula.epochs) == len({*map(str, Formula.epochs)}), "no epoch twice"
    assert two_jobs(tmp_path).trials == result.trials, "there is nothing left to do"


def test_two_at_a_time_interrupted_go_on(two_jobs, tmp_path, monkeypatch):
    def raised(recipe, epoch):
        if len(Formula.epochs) in (6, 15, 30):
            signal.raise_signal(signal.SIGTERM)
        return False

    monkeypatch.setattr(Formula, "diverges", staticmethod(raised))
    for _ in range(3):
        with pytest.raises(Interrupted):
            two_jobs(tmp_path)
    result = two_jobs(tmp_path)
    assert len(result.trials) == 20
    assert {one.result for one in result.trials} == {"finished", "stopped early"}
    assert len(Formula.epochs) == len({*map(str, Formula.epochs)}), "no epoch twice"


def test_two_at_a_time_a_failure_is_told_and_one_in_the_common_epochs_ends_it(
    two_jobs, tmp_path, monkeypatch
):
    failing = {made.START: 3, made.START + 2: 10}
    monkeypatch.setattr(
        Formula, "diverges", staticmethod(lambda one, epoch: failing.get(epoch) == one.method.num_groups)
    )
    with pytest.raises(NonFiniteLossError, match=f"epoch {made.START}"):
        two_jobs(tmp_path)
    del failing[made.START]
    failed = two_jobs(tmp_path).having("failed")
    assert {one.cause for one in failed} == {f"loss is not finite in epoch {made.START + 2}"}
    assert {one.settings["num_groups"] for one in failed} == {10}
