"""Trackers: callbacks that also write each epoch for TensorBoard, for MLflow, or as CSV (`trainer.track`).

What they write is in ``metrics.jsonl`` too. So a tracker that could not be reached, or that a killed process
did not tell of its last epoch, catches up with the next one, and a run that goes on has every epoch once.
"""

from __future__ import annotations

import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, ClassVar

from ffds.errors import FfdsError, InputError, tell
from ffds.files import csv_text, json_text
from ffds.recipes.schema import Recipe
from ffds.run_directory import Run

__all__ = ["CSV", "TRACKERS", "MLflow", "TensorBoard", "Tracker", "check_trackers", "scalars", "tracked"]


class Tracker(ABC):
    """A callback that writes what `scalars` says of each epoch.

    One that cannot begin ends the run before it trains. One that fails later is reported, the run goes on,
    and it writes the same epochs after the next one. `written` is the last epoch that was written.
    """

    libraries: ClassVar[tuple[str, ...]] = ()
    """Modules without which it cannot work."""

    def __init__(self) -> None:
        self.written, self._begun = 0, False

    @abstractmethod
    def begin(self, run: Run, recipe: Recipe) -> None:
        """Open what is written to; set `written`."""

    @abstractmethod
    def write(self, run: Run, entry: Mapping[str, Any], ended: float) -> None:
        """Write one epoch that ended at this time, in seconds since 1970."""

    def finish(self, run: Run) -> None:
        """Write what belongs to the end of a run that is done."""
        return

    def close(self, *, done: bool) -> None:
        """Let go of what is open."""
        return

    def on_train_start(self, run: Run, recipe: Recipe) -> None:
        """Begin, or say why that is not possible."""
        try:
            self.begin(run, recipe)
            self._begun = True
        except FfdsError:
            raise
        except Exception as error:
            raise self._failed(error) from error

    def on_epoch_end(self, run: Run, entry: Mapping[str, Any]) -> None:
        """Write every epoch that is not written yet."""
        with self._reported():
            self.write_epochs(run)

    def on_train_end(self, run: Run, summary: Mapping[str, Any]) -> None:
        """Write what is missing, and what belongs to the end."""
        with self._reported():
            self.write_epochs(run)
            self.finish(run)

    def end(self, *, done: bool) -> None:
        """As `close`, if it has begun, whatever happens in it."""
        if self._begun:
            with self._reported():
                self.close(done=done)

    def write_epochs(self, run: Run) -> None:
        """Write the epochs that are not written yet."""
        now, missing = time.time(), run.metrics[self.written :]
        for at, entry in enumerate(missing):
            self.write(run, entry, now - sum(later["seconds"] for later in missing[at + 1 :]))
            self.written = entry["epoch"]

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Report an error of the tracker and go on; those of the run directory count."""
        try:
            yield
        except FfdsError:
            raise
        except Exception as error:
            tell(f"warning: {self._failed(error)}")

    def _failed(self, error: Exception) -> InputError:
        name = type(self).__name__
        fix = f"mend it, or leave {name.lower()} out of trainer.track"
        return InputError(
            f"{name} failed", where="trainer.track", got=f"{type(error).__name__}: {error}", fix=fix
        )


class TensorBoard(Tracker):
    """An event file in ``RUN/tensorboard``: each session writes all epochs anew."""

    libraries = ("tensorboard",)

    def begin(self, run: Run, recipe: Recipe) -> None:
        """Open an event file, and delete those of earlier sessions."""
        from torch.utils.tensorboard import SummaryWriter

        directory = run.path / "tensorboard"
        for file in directory.glob("events.out.tfevents.*"):
            file.unlink()
        self._writer = SummaryWriter(str(directory))

    def write(self, run: Run, entry: Mapping[str, Any], ended: float) -> None:
        """Write an epoch as scalars, its number as the step."""
        writer: Any = self._writer
        for name, value in scalars(entry).items():
            writer.add_scalar(name, value, entry["epoch"], walltime=ended)
        writer.flush()

    def close(self, *, done: bool) -> None:
        """Close the event file."""
        writer: Any = self._writer
        writer.close()


class MLflow(Tracker):
    """One MLflow run for each run; its id is kept in ``RUN/mlflow.json``, so that it goes on with the run.

    It is written to the server or the database that ``MLFLOW_TRACKING_URI`` names, else to ``mlflow.db`` in
    the directory of all runs; its experiment is ``MLFLOW_EXPERIMENT_NAME``, else the name of the recipe.
    """

    libraries = ("mlflow",)
    _FILE = "mlflow.json"
    _PARAMS_AT_ONCE = 100

    def begin(self, run: Run, recipe: Recipe) -> None:
        """Find the MLflow run of an earlier session, or begin one with the settings of the recipe."""
        # A training tells nobody about itself, and does not wait for minutes for a server that is away.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        out = run.path.absolute().parents[2]
        place = os.environ.get("MLFLOW_TRACKING_URI")
        if not place and find_spec("sqlalchemy") is None:
            what, fix = "MLflow needs a server, or the package sqlalchemy to write to a file", _INSTALL
            raise InputError(what, where="MLFLOW_TRACKING_URI", got="not set", fix=fix)
        self._client = MlflowClient(tracking_uri=place or f"sqlite:///{out / 'mlflow.db'}")
        try:
            known = json.loads((run.path / self._FILE).read_bytes())["run_id"]
            self._client.update_run(known, status="RUNNING")
            self._id: str = known
        except (OSError, ValueError, LookupError, TypeError, MlflowException):  # none, or on another server
            self._id = self._new(run, recipe, None if place else (out / "mlflow").as_uri())
        history = self._client.get_metric_history(self._id, "lr")
        self.written = max((metric.step for metric in history), default=0)

    def _new(self, run: Run, recipe: Recipe, artifacts: str | None) -> str:
        from mlflow.entities import Param

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or recipe.name
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name, artifacts)
        tags = {"ffds.run": str(run.path.absolute()), "ffds.config_hash": recipe.config_hash}
        new: str = self._client.create_run(experiment, run_name=run.name, tags=tags).info.run_id
        params = [Param(key, str(value)) for key, value in recipe.by_key.items()]
        for first in range(0, len(params), self._PARAMS_AT_ONCE):
            self._client.log_batch(new, params=params[first : first + self._PARAMS_AT_ONCE])
        run.write_text(self._FILE, json_text({"run_id": new}))
        return new

    def write(self, run: Run, entry: Mapping[str, Any], ended: float) -> None:
        """Write an epoch as metrics, its number as the step; the learning rate last, as `begin` expects."""
        from mlflow.entities import Metric

        values = scalars(entry)
        values["lr"] = values.pop("lr")
        at, step = round(1000 * ended), entry["epoch"]
        metrics = [Metric(name, value, at, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def finish(self, run: Run) -> None:
        """Add recipe, summary and page."""
        for name in ("recipe.yaml", "summary.json", "report.html"):
            if (run.path / name).is_file():
                self._client.log_artifact(self._id, str(run.path / name))

    def close(self, *, done: bool) -> None:
        """End the MLflow run; one that was stopped is said to be killed, until it goes on."""
        self._client.set_terminated(self._id, status="FINISHED" if done else "KILLED")


class CSV(Tracker):
    """``RUN/metrics.csv``, one line an epoch, which is always that of ``metrics.jsonl``."""

    def begin(self, run: Run, recipe: Recipe) -> None:
        """Nothing: no file is open between two epochs."""

    def write(self, run: Run, entry: Mapping[str, Any], ended: float) -> None:
        """Nothing: all epochs are written at once."""

    def write_epochs(self, run: Run) -> None:
        """Write the whole file."""
        lines = [
            {"epoch": entry["epoch"], "phase": entry.get("phase")}
            | {name.replace("/", "_"): value for name, value in scalars(entry).items()}
            for entry in run.metrics
        ]
        columns = list(dict.fromkeys(name for line in lines for name in line))
        run.write_text(
            "metrics.csv", csv_text(columns, ([line.get(name) for name in columns] for line in lines))
        )


TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "csv": CSV}
"""Every tracker by its name in `trainer.track`."""

_INSTALL = "pip install 'ffds[track]'"


def check_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker whose library is not installed, before anything is written."""
    missing = [one for name in names for one in TRACKERS[name].libraries if find_spec(one) is None]
    if missing:
        what = f"trainer.track needs {', '.join(missing)}, not installed"
        raise InputError(what, where="trainer.track", got=", ".join(names), fix=_INSTALL)


@contextmanager
def tracked(names: Sequence[str], run: Run) -> Iterator[list[Tracker]]:
    """The trackers of a run, which are closed in the end, whatever ends it."""
    trackers = [TRACKERS[name]() for name in dict.fromkeys(names)]
    try:
        yield trackers
    finally:
        for tracker in trackers:
            tracker.end(done=run.done)


def scalars(entry: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an epoch that are known, by name; those of single classes are left out.

    >>> scalars({"epoch": 3, "lr": 0.1, "test": {"accuracy": 40.0, "tail": None, "per_class": [40.0]}})
    {'lr': 0.1, 'test/accuracy': 40.0}
    """
    values = {name: value for name, value in entry.items() if name != "epoch"}
    for part, scores in entry.items():
        if isinstance(scores, Mapping):
            values |= {f"{part}/{name}": value for name, value in scores.items()}
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
