"""One trial: what it reports, when it stops, what it never reads."""

import math
import re
from pathlib import Path

import optuna
import pytest

from ffds import sweep
from ffds.errors import NonFiniteLossError
from ffds.run_directory import Run
from ffds.sweep.objective import Objective, balanced_accuracy
from ffds.sweep.recipe import searched_recipe
from tests.sweep import made


class Told:
    """In place of a trial: remembers what it is told, asks to stop after one epoch."""

    def __init__(self, stop=None):
        self.stop, self.told = stop, {}

    def report(self, value, step):
        assert step not in self.told, "told once"
        self.told[step] = value

    def should_prune(self):
        return max(self.told) == self.stop


def objective(trial, tmp_path, *overrides):
    recipe = searched_recipe("digits", [*made.SETTINGS, *overrides])
    return recipe, Objective(trial, recipe, None, tmp_path)


def test_balanced_accuracy_is_the_mean_over_classes_with_images():
    assert balanced_accuracy({"per_class": [50.0, None, 100.0], "accuracy": 99.0}) == 75
    assert balanced_accuracy({"per_class": [0.0]}) == 0


def test_each_epoch_of_the_second_phase_is_reported(tmp_path, monkeypatch):
    made.use(monkeypatch)
    trial = Told()
    recipe, trained = objective(trial, tmp_path)
    last = trained()
    assert trial.told == {epoch: made.score(recipe, epoch) for epoch in (5, 6, 7, 8)}
    assert last == trial.told[8]


def test_a_method_of_one_phase_reports_every_epoch(tmp_path, monkeypatch):
    made.use(monkeypatch)
    trial = Told()
    recipe = searched_recipe("digits", ["schedule.epochs=3", "method=ffds"])
    Objective(trial, recipe, None, tmp_path)()
    assert list(trial.told) == [1, 2, 3]


@pytest.mark.parametrize("stop", [5, 6, 7])
def test_it_stops_after_the_epoch_it_is_asked_to(stop, tmp_path, monkeypatch):
    made.use(monkeypatch)
    trial = Told(stop)
    _, trained = objective(trial, tmp_path)
    with pytest.raises(optuna.TrialPruned):
        trained()
    assert max(trial.told) == stop
    assert not trained.run.done
    again = Told(stop)
    trainer = made.use(monkeypatch)
    with pytest.raises(optuna.TrialPruned):
        objective(again, tmp_path)[1]()
    assert again.told == trial.told
    assert trainer.trained == [], "what is on disk decides"


def test_after_the_last_epoch_there_is_nothing_to_stop(tmp_path, monkeypatch):
    made.use(monkeypatch)
    trained = objective(Told(8), tmp_path)[1]
    assert trained() > 0
    assert trained.run.done


def test_a_finished_run_is_reported_again(tmp_path, monkeypatch):
    trainer = made.use(monkeypatch)
    first, second = Told(), Told()
    assert objective(first, tmp_path)[1]() == objective(second, tmp_path)[1]()
    assert first.told == second.told
    assert len(trainer.trained) == made.EPOCHS


def test_the_common_epochs_end_with_the_first_phase(tmp_path, monkeypatch):
    made.use(monkeypatch, made.Trainer(diverges=lambda recipe, epoch: epoch == 4))
    trained = objective(Told(), tmp_path)[1]
    with pytest.raises(NonFiniteLossError):
        trained()
    assert trained.in_common
    made.use(monkeypatch, made.Trainer(diverges=lambda recipe, epoch: epoch == 5))
    trained = objective(Told(), tmp_path)[1]
    with pytest.raises(NonFiniteLossError):
        trained()
    assert not trained.in_common


def test_only_the_validation_entry_of_an_epoch_is_read(tmp_path, monkeypatch):
    made.use(monkeypatch, made.Trainer(test=lambda epoch: {"accuracy": 1.0}))
    original = Run.metrics.fget

    class Sealed(dict):
        def __getitem__(self, key):
            assert key in ("epoch", "validation"), f"reads {key}"
            return super().__getitem__(key)

        get = __getitem__

    monkeypatch.setattr(Run, "metrics", property(lambda run: [Sealed(entry) for entry in original(run)]))
    assert math.isfinite(objective(Told(), tmp_path)[1]())


def test_no_source_of_a_sweep_names_the_test_set():
    for file in Path(*sweep.__path__).glob("*.py"):
        found = re.findall(r"""\.test\b|["']test["']|best_on_test""", file.read_text(encoding="utf-8"))
        assert not found, f"{file.name}: {found}"
