"""Trackers, read back with the libraries that read them."""

import csv
import importlib.util
import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ffds.errors import InputError
from ffds.run_directory import Run
from ffds.training.trackers import CSV, scalars
from tests.training import processes, tiny


def written_by_csv(run):
    with (run.path / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def written_by_tensorboard(run):
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    return {
        name: [(one.step, one.value) for one in events.Scalars(name)] for name in events.Tags()["scalars"]
    }


def expected(run):
    names = dict.fromkeys(name for entry in run.metrics for name in scalars(entry))
    numbers = [(entry["epoch"], scalars(entry)) for entry in run.metrics]
    return {name: [(epoch, of[name]) for epoch, of in numbers if name in of] for name in names}


def _killed(out):
    def after_epoch(entry):
        if entry["epoch"] == 2:
            processes.kill_self()

    recipe = tiny.recipe("trainer.track=[tensorboard, csv]", "trainer.checkpoint_every=3")
    tiny.train(recipe, out, after_epoch=after_epoch)


def test_a_killed_run_that_goes_on_has_every_epoch_once(tmp_path, d_ffds):
    """Its two epochs had no checkpoint, and are trained and written again."""
    child = processes.forked(_killed, tmp_path, log=tmp_path / "log")
    assert processes.exit_code(child) == -9, (tmp_path / "log").read_text()
    recipe, whole = tiny.recipe("trainer.track=[tensorboard, csv]", "trainer.checkpoint_every=3"), d_ffds[1]
    assert recipe.config_hash == d_ffds[0].config_hash
    run = Run.of(recipe, tmp_path)
    assert [line["epoch"] for line in written_by_csv(run)] == ["1", "2"]
    tiny.train(recipe, tmp_path)
    assert tiny.trace(run) == tiny.trace(whole)
    numbers = expected(run)
    found = written_by_tensorboard(run)
    assert found.keys() == numbers.keys()
    for name, values in numbers.items():
        assert found[name] == [(epoch, pytest.approx(value, rel=1e-6)) for epoch, value in values]
    lines = written_by_csv(run)
    assert [line["phase"] for line in lines] == [entry["phase"] for entry in run.metrics]
    assert [float(line["test_accuracy"]) for line in lines] == [one for _, one in numbers["test/accuracy"]]


# The database of MLflow uses a part of sqlalchemy that is going to change.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_mlflow_goes_on_with_the_run_it_began(tmp_path, monkeypatch, d_ffds):
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    recipe = tiny.recipe("trainer.track=mlflow", "trainer.checkpoint_every=3")

    def stop(entry):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny.train(recipe, tmp_path, after_epoch=stop)
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    run = Run.of(recipe, tmp_path)
    known = json.loads((run.path / "mlflow.json").read_text())["run_id"]
    assert client.get_run(known).info.status == "KILLED"
    tiny.train(recipe, tmp_path)
    assert tiny.trace(run) == tiny.trace(d_ffds[1])
    (experiment,) = client.search_experiments(filter_string="name = 'digits'")
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_id, found.info.run_name, found.info.status) == (known, run.name, "FINISHED")
    assert found.data.params["optimizer.lr"] == "0.1"
    for name in ("lr", "test/accuracy", "train/loss"):
        history = [(one.step, one.value) for one in client.get_metric_history(known, name)]
        assert history == expected(run)[name]
    files = {one.path for one in client.list_artifacts(known)}
    assert files == {"recipe.yaml", "summary.json"}


def test_a_library_that_is_missing_is_named_before_anything_is_written(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    without = {"tensorboard"}
    monkeypatch.setattr(
        "ffds.training.trackers.find_spec", lambda name: None if name in without else found(name)
    )
    with pytest.raises(InputError, match=r"tensorboard, not installed(.|\n)*pip install 'ffds\[track\]'"):
        tiny.train(tiny.recipe("trainer.track=[csv, tensorboard]"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_tracker_that_fails_is_reported_and_catches_up(tmp_path, monkeypatch, capsys):
    write, failures = CSV.write_epochs, iter([OSError("away"), OSError("away")])

    def away(self, run):
        if error := next(failures, None):
            raise error
        write(self, run)

    monkeypatch.setattr(CSV, "write_epochs", away)
    run = tiny.train(tiny.recipe("schedule.epochs=3", "trainer.track=csv", method="ce"), tmp_path)
    assert capsys.readouterr().err.count("warning: CSV failed") == 2
    assert [line["epoch"] for line in written_by_csv(run)] == ["1", "2", "3"]
    monkeypatch.setattr(CSV, "begin", lambda *_: 1 / 0)
    recipe = tiny.recipe("trainer.track=csv", "trainer.seed=5")
    with pytest.raises(InputError, match=r"CSV failed(.|\n)*ZeroDivisionError"):
        tiny.train(recipe, tmp_path)
    assert not Run.of(recipe, tmp_path).metrics
