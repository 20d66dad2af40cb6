"""Methods × seeds: the arithmetic, the text, and what an interruption or a failure leaves."""

import csv
import errno
import io
import math
import os

import pytest

import ffds
import ffds.jobs.share as module
from ffds.errors import InputError, Interrupted, NonFiniteLossError
from ffds.jobs.jobs import Jobs
from ffds.losses import FocalLoss
from ffds.recipes.load import load_recipe
from ffds.reports.comparison import COLUMNS, SHORT, Comparison, compare, compare_recipes
from ffds.run_directory import Run
from tests.training import tiny

ENVIRONMENT = {
    "hardware": "2 cores of X",
    "versions": {"python": "3.11", "torch": "2.13"},
    "commit": "abc",
    "command": "ffds compare",
}


def summary(method, seed, **changes):
    return {
        "recipe": "digits",
        "method": method,
        "seed": seed,
        "config_hash": "00",
        "epochs": 4,
        "accuracy": {"last": 40.0 + seed, "best_on_test": 50.0, "best_epoch": 3},
        "balanced_accuracy": 41.0,
        "macro_f1": 42.0,
        "ece": 43.0,
        "head": 44.0,
        "middle": 45.0,
        "tail": None,
        "many": 47.0,
        "medium": 48.0,
        "few": 49.0,
        "train_accuracy": 90.0,
        "seconds": 1.5,
        "images_per_second": 1000.0,
    } | changes


def made(path, content=None, environment=ENVIRONMENT):
    """A run directory by hand; without a summary it is not done."""
    path.mkdir(parents=True)
    run = Run(path)
    run.start(load_recipe("digits").recipe, environment)
    if content is not None:
        run.finish(content)
    return run


# Arithmetic


@pytest.fixture
def by_hand(tmp_path):
    runs = {
        "ce": (made(tmp_path / "0", summary("ce", 0)), made(tmp_path / "1", summary("ce", 1))),
        "fl": (made(tmp_path / "2", summary("fl", 0, tail=7.0)), made(tmp_path / "3")),
        "ib": (made(tmp_path / "4"), made(tmp_path / "5")),
    }
    failure = NonFiniteLossError("loss is not finite\n  diagnosis: a file")
    return Comparison("digits", "digits", (0, 1), runs, {str(tmp_path / "5"): failure})


def test_every_column_has_its_place(by_hand):
    places = {
        "accuracy": "40.50 ± 0.71",
        "head": "44.00 ± 0.00",
        "middle": "45.00 ± 0.00",
        "tail": "—",
        "balanced": "41.00 ± 0.00",
        "macro-F1": "42.00 ± 0.00",
        "ECE": "43.00 ± 0.00",
        "train": "90.00 ± 0.00",
        "best on test": "50.00 ± 0.00",
    }
    assert {column: str(by_hand.cell("ce", column)) for column in COLUMNS} == places
    assert by_hand.cell("fl", "tail").values == (7.0,)
    assert by_hand.cell("ib", "accuracy").values == ()


def test_table(by_hand):
    assert by_hand.table(SHORT) == [
        ["method", "n", "accuracy", "head", "middle", "tail", "best on test"],
        ["ce", "2", "40.50 ± 0.71", "44.00 ± 0.00", "45.00 ± 0.00", "—", "50.00 ± 0.00"],
        ["fl", "1", "40.00", "44.00", "45.00", "7.00", "50.00"],
        ["ib", "0", "—", "—", "—", "—", "—"],
    ]
    assert by_hand.table()[0] == ["method", "n", *COLUMNS]


def test_markdown(by_hand, tmp_path):
    text = by_hand.markdown()
    lines = text.splitlines()
    assert lines[:7] == [
        "# digits",
        "",
        "| method | n | accuracy | head | middle | tail | balanced | macro-F1 | ECE | train | best on test |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| ce | 2 | 40.50 ± 0.71 | 44.00 ± 0.00 | 45.00 ± 0.00 | — | 41.00 ± 0.00 | 42.00 ± 0.00 | "
        "43.00 ± 0.00 | 90.00 ± 0.00 | 50.00 ± 0.00 |",
        "| fl | 1 | 40.00 | 44.00 | 45.00 | 7.00 | 41.00 | 42.00 | 43.00 | 90.00 | 50.00 |",
        "| ib | 0 | — | — | — | — | — | — | — | — | — |",
    ]
    assert "over n seeds of 0, 1." in text
    assert "chosen on the test set" in text
    assert f"\nFailed: {tmp_path / '5'}: loss is not finite\n" in text
    assert (
        lines[-1] == "Measured on 2 cores of X; python 3.11, torch 2.13; commit abc; command `ffds compare`."
    )
    assert text.count("Measured on") == 1, "the same for all runs, told once"


def test_provenance_of_different_machines(tmp_path):
    other = ENVIRONMENT | {"hardware": "an H100", "commit": None}
    runs = (made(tmp_path / "0", summary("ce", 0)), made(tmp_path / "1", summary("ce", 1), other))
    text = Comparison("digits", "digits", (0, 1), {"ce": runs}).markdown()
    assert "Measured on 2 cores of X; python 3.11, torch 2.13; commit abc; command `ffds compare`.\n" in text
    assert "Measured on an H100; python 3.11, torch 2.13; commit unknown; command `ffds compare`.\n" in text


def test_csv(by_hand):
    text = by_hand.csv()
    assert "\r" not in text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["method"], row["seed"]) for row in rows] == [("ce", "0"), ("ce", "1"), ("fl", "0")]
    assert list(rows[0]) == [
        *("recipe", "method", "seed", "config_hash", "epochs", "accuracy_last", "accuracy_best_on_test"),
        *("accuracy_best_epoch", "balanced_accuracy", "macro_f1", "ece", "head", "middle", "tail", "many"),
        *("medium", "few", "train_accuracy", "seconds", "images_per_second"),
    ]
    assert rows[1]["accuracy_last"] == "41.0"
    assert (rows[1]["tail"], rows[2]["tail"]) == ("", "7.0")


def test_written(by_hand, tmp_path):
    by_hand.write(tmp_path)
    assert (tmp_path / "compare.md").read_text(encoding="utf-8") == by_hand.markdown()
    assert (tmp_path / "compare.csv").read_text(encoding="utf-8") == by_hand.csv()


def test_nothing_done_yet(tmp_path):
    comparison = Comparison("digits", "digits", (0,), {"ce": (made(tmp_path / "0"),)})
    assert comparison.csv() == "recipe\n"
    assert comparison.table(("accuracy",)) == [["method", "n", "accuracy"], ["ce", "0", "—"]]


def test_done_on_other_images_is_no_result(tmp_path):
    """As the plan tells it: in `failures`, with a summary on the disk."""
    runs = (made(tmp_path / "0", summary("ce", 0)), made(tmp_path / "1", summary("ce", 1), {}))
    failures = {runs[1].path: InputError("the run is done, but on other images")}
    found = Comparison("digits", "digits", (0, 1), {"ce": runs}, failures)
    assert found.table(("accuracy",))[1] == ["ce", "1", "40.00"]
    assert [row["seed"] for row in csv.DictReader(io.StringIO(found.csv()))] == ["0"]
    assert "Failed: " in found.markdown()


# Training


OVERRIDES = {"schedule.epochs": 2, "trainer.batch_size": 32, "model.name": "resnet20"}
TEXTS = tuple(f"{key}={value}" for key, value in OVERRIDES.items())


@pytest.fixture
def tiny_digits(monkeypatch):
    tiny.use(monkeypatch)


@pytest.mark.usefixtures("tiny_digits")
def test_compare(tmp_path, capsys):
    found = compare(
        "digits", methods=["ce", "d-ffds"], seeds=[0, 1], out=tmp_path, overrides=OVERRIDES, shown=False
    )
    assert ffds.compare is compare
    assert found.recipe == "digits"
    assert found.seeds == (0, 1)
    assert not found.failures
    for method, runs in found.runs.items():
        assert [(run.summary["method"], run.summary["seed"]) for run in runs] == [(method, 0), (method, 1)]
        last = [run.metrics[-1]["test"]["accuracy"] for run in runs]
        assert found.cell(method, "accuracy").values == tuple(last)
    assert list(found.runs) == ["ce", "d-ffds"]
    assert (tmp_path / "digits" / "compare.md").read_text(encoding="utf-8") == found.markdown()
    assert len((tmp_path / "digits" / "compare.csv").read_text().splitlines()) == 5
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("tiny_digits")
def test_an_interrupted_comparison_goes_on(tmp_path, monkeypatch):
    trained = []
    original = module.train_recipe

    def spied(recipe, **how):
        trained.append((recipe.method.name, recipe.trainer.seed))
        return original(recipe, **how)

    monkeypatch.setattr(module, "train_recipe", spied)
    given = ("digits", TEXTS, ["ce", "fl"], [0, 1])
    sessions = iter([float("inf"), 3, float("inf"), float("inf"), float("inf")])
    monkeypatch.setattr("ffds.training.train.StopSignals", lambda: tiny.StopAfter(next(sessions)))
    with pytest.raises(Interrupted):
        compare_recipes(*given, out=tmp_path, shown=False)
    assert trained == [("ce", 0), ("ce", 1)]
    assert not (tmp_path / "digits" / "compare.md").exists()
    (done,) = tmp_path.glob("digits/*/*/summary.json")
    before = done.stat().st_mtime_ns
    found = compare_recipes(*given, out=tmp_path, shown=False)
    assert next(sessions, "used up") == "used up", "three runs were left, no more"
    assert done.stat().st_mtime_ns == before
    assert [found.table(("accuracy",))[row][1] for row in (1, 2)] == ["2", "2"]


@pytest.mark.usefixtures("tiny_digits")
def test_a_failed_run_leaves_a_gap_and_its_reason(tmp_path, monkeypatch, capsys):
    forward = FocalLoss.forward
    monkeypatch.setattr(FocalLoss, "forward", lambda *given: forward(*given) * math.nan)
    found = compare_recipes("digits", TEXTS, ["fl", "ce"], [0], out=tmp_path, shown=False)
    failed, done = Run.of(recipe("fl"), tmp_path), Run.of(recipe("ce"), tmp_path)
    assert list(found.failures) == [failed.path]
    assert isinstance(found.failures[failed.path], NonFiniteLossError)
    assert found.table(("accuracy",))[1:] == [
        ["fl", "0", "—"],
        ["ce", "1", f"{done.summary['accuracy']['last']:.2f}"],
    ]
    text = (tmp_path / "digits" / "compare.md").read_text(encoding="utf-8")
    assert f"Failed: {failed.path}: loss or gradient is not finite in epoch 1, step 1" in text
    assert "loss or gradient is not finite" in capsys.readouterr().err
    monkeypatch.setattr(FocalLoss, "forward", forward)
    assert not compare_recipes("digits", TEXTS, ["fl", "ce"], [0], out=tmp_path, shown=False).failures


@pytest.mark.usefixtures("tiny_digits")
def test_a_full_disk_leaves_a_gap(tmp_path, monkeypatch):
    add_epoch = Run.add_epoch

    def full_for_fl(run, entry):
        with pytest.MonkeyPatch.context() as patch:
            if "/fl/" in str(run.path):
                patch.setattr("ffds.run_directory.os.fsync", fail)
            add_epoch(run, entry)

    def fail(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Run, "add_epoch", full_for_fl)
    found = compare_recipes("digits", TEXTS, ["fl", "ce"], [0], out=tmp_path, shown=False)
    assert [row[:2] for row in found.table(("accuracy",))[1:]] == [["fl", "0"], ["ce", "1"]]
    assert "disk full while saving the metrics" in str(*found.failures.values())
    monkeypatch.undo()
    with pytest.MonkeyPatch.context() as patch:
        tiny.use(patch)
        again = compare_recipes("digits", TEXTS, ["fl", "ce"], [0], out=tmp_path, shown=False)
    assert not again.failures


def test_a_place_that_cannot_be_written_is_told_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr("ffds.reports.comparison.train_all", lambda *_, **__: pytest.fail("trains"))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write there"):
        compare("digits", methods=["ce"], out=tmp_path / "file", overrides=OVERRIDES)


def recipe(method):
    return load_recipe("digits", TEXTS, method=method).recipe


def test_without_any_run_there_is_a_table_of_gaps(tmp_path):
    nowhere = ["data.name=folder", f"data.root={tmp_path / 'none'}"]
    found = compare_recipes("digits", [*TEXTS, *nowhere], ["ce"], [0], out=tmp_path / "runs", shown=False)
    assert found.table(("accuracy",))[1:] == [["ce", "0", "—"]]
    assert "Failed: " in (tmp_path / "runs" / "digits" / "compare.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("how", "jobs"),
    [({}, Jobs(1)), ({"jobs": 3}, Jobs(3)), ({"devices": [1, 0]}, Jobs(2, (1, 0)))],
)
def test_jobs_are_handed_on(how, jobs, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "ffds.reports.comparison.train_all", lambda recipes, **how: asked.append(how["jobs"]) or {}
    )
    compare("digits", methods=["ce"], out=tmp_path, overrides=OVERRIDES, **how)
    assert asked == [jobs]


@pytest.mark.usefixtures("tiny_digits")
def test_named_twice_is_trained_and_told_once(tmp_path):
    found = compare_recipes("digits", TEXTS, ["ce", "ce"], [1, 1], out=tmp_path, shown=False)
    assert [len(runs) for runs in found.runs.values()] == [1]
    assert found.seeds == (1,)


@pytest.mark.parametrize(
    ("overrides", "methods", "seeds"),
    [
        (TEXTS, ["ce", "cee"], [0]),
        (("schedule.epocs=2",), ["ce"], [0]),
        (TEXTS, ["ce"], [0, -1]),
        (TEXTS, [], [0]),
        (TEXTS, ["ce"], []),
        ((*TEXTS, "method=ffds"), ["ce", "d-ffds"], [0]),
        ((*TEXTS, "trainer.seed=3"), ["ce"], [0]),
    ],
)
def test_a_slip_is_told_before_anything_is_trained(overrides, methods, seeds, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "train_recipe", lambda *_, **__: pytest.fail("trains"))
    with pytest.raises(InputError):
        compare_recipes("digits", overrides, methods, seeds, out=tmp_path)
    assert not list(tmp_path.iterdir())
