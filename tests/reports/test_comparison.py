"""Methods × seeds: the arithmetic, the text, and what an interruption or a failure leaves."""

import csv
import io
import math
import shutil

import pytest

import ffds
from ffds.errors import InputError
from ffds.jobs.options import Jobs
from ffds.losses import FocalLoss
from ffds.reports.comparison import COLUMNS, SHORT, Comparison, compare, compare_recipes
from tests.data.pictures import write_folder, write_picture
from tests.finished_runs import recipe, write_run
from tests.training import tiny
from tests.training.test_own_images import SMALL

OVERRIDES = {"schedule.epochs": 2, "trainer.batch_size": 32, "model.name": "resnet20"}
TEXTS = tuple(f"{key}={value}" for key, value in OVERRIDES.items())


def csv_rows(comparison):
    return list(csv.DictReader(io.StringIO(comparison.csv())))


# Arithmetic


def written(out, method, seed, **numbers):
    one = recipe("schedule.epochs=2", f"trainer.seed={seed}", name="digits", method=method)
    return write_run(out, one, best=50.0, classes=10, checkpoint=False, **numbers)


def unfinished(out, method, seed):
    run = written(out, method, seed)
    (run.path / "summary.json").unlink()
    return run


@pytest.fixture
def by_hand(tmp_path):
    runs = {
        "ce": (written(tmp_path, "ce", 0, last=40.0), written(tmp_path, "ce", 1, last=41.0)),
        "fl": (written(tmp_path, "fl", 0, last=40.0), unfinished(tmp_path, "fl", 1)),
        "ib": (unfinished(tmp_path, "ib", 0), written(tmp_path, "ib", 1)),
    }
    runs["fl"][0].finish(runs["fl"][0].summary | {"tail": None})
    # Done, but no result: the images have changed since.
    failed = {runs["ib"][1].path: InputError("the run is done, but on other images", got="others")}
    return Comparison("digits", "digits", (0, 1), runs, failed)


def test_table(by_hand):
    header, ce, *_ = by_hand.table()
    assert header == ["method", "n", *COLUMNS]
    assert dict(zip(header, ce, strict=True)) == {
        **{"method": "ce", "n": "2", "accuracy": "40.50 ± 0.71", "head": "60.00 ± 0.00"},
        **{"middle": "35.00 ± 0.00", "tail": "5.50 ± 0.00", "balanced": "40.50 ± 0.71"},
        **{"macro-F1": "40.50 ± 0.71", "ECE": "20.00 ± 0.00", "train": "90.00 ± 0.00"},
        "best on test": "50.00 ± 0.00",
    }
    short, _, *others = by_hand.table(SHORT)
    assert short == ["method", "n", "accuracy", "head", "middle", "tail", "best on test"]
    assert others == [["fl", "1", "40.00", "60.00", "35.00", "n/a", "50.00"], ["ib", "0", *["—"] * 5]]


def test_markdown(by_hand):
    text = by_hand.markdown()
    lines = text.splitlines()
    assert lines[0] == "# digits"
    assert lines[2].split(" | ")[-3:] == ["ECE", "train", "best on test |"]
    assert lines[5] == "| fl | 1 | 40.00 | 60.00 | 35.00 | n/a | 40.00 | 40.00 | 20.00 | 90.00 | 50.00 |"
    assert "over n seeds of 0, 1." in text
    assert "chosen on the test set" in text
    assert "\n\nhead, middle, tail: the classes in three parts" in text
    assert f"\n\nFailed: {next(iter(by_hand.failures))}: the run is done, but on other images\n\n" in text
    assert lines[-1] == "Measured on 2 cores of X; python 3.11, torch 2.13; commit abc; `ffds table 1a`."
    assert text.count("Measured on") == 1


def test_csv(by_hand):
    assert "\r" not in by_hand.csv()
    rows = csv_rows(by_hand)
    assert [(row["method"], row["seed"]) for row in rows] == [("ce", "0"), ("ce", "1"), ("fl", "0")]
    assert list(rows[0]) == [
        *("recipe", "method", "seed", "config_hash", "epochs", "accuracy_last", "accuracy_best_on_test"),
        *("accuracy_best_epoch", "balanced_accuracy", "macro_f1", "ece", "head", "middle", "tail", "many"),
        *("medium", "few", "train_accuracy", "seconds", "images_per_second"),
    ]
    assert rows[1]["accuracy_last"] == "41.0"
    assert (rows[1]["tail"], rows[2]["tail"]) == ("5.5", "")


def test_a_run_of_an_earlier_version_may_lack_a_measure(by_hand):
    run = by_hand.runs["ce"][0]
    run.finish({name: value for name, value in run.summary.items() if name != "ece"})
    assert [row["ece"] for row in csv_rows(by_hand)] == ["", "20.0", "20.0"]
    assert by_hand.cell("ce", "ECE").values == (20.0,)
    run = by_hand.runs["fl"][0]
    run.finish({name: value for name, value in run.summary.items() if name != "tail"} | {"ece": None})
    empty = [str(by_hand.cell("fl", name)) for name in ("tail", "ECE")]
    assert empty == ["—", "—"], "n/a is a group without test images alone"


# Training


def test_compare(tmp_path, capsys, monkeypatch):
    tiny.use(monkeypatch)
    given = {"methods": ["ce", "d-ffds", "ce"], "seeds": [0, 1, 0], "overrides": OVERRIDES}
    comparison = compare("digits", **given, out=tmp_path, shown=False)
    assert ffds.compare is compare
    assert (comparison.recipe, comparison.seeds, comparison.failures) == ("digits", (0, 1), {})
    assert list(comparison.runs) == ["ce", "d-ffds"]
    for method, runs in comparison.runs.items():
        assert [(run.summary["method"], run.summary["seed"]) for run in runs] == [(method, 0), (method, 1)]
        last = [run.metrics[-1]["test"]["accuracy"] for run in runs]
        assert comparison.cell(method, "accuracy").values == tuple(last)
    assert (tmp_path / "digits" / "compare.md").read_text(encoding="utf-8") == comparison.markdown()
    assert len((tmp_path / "digits" / "compare.csv").read_text().splitlines()) == 5
    assert capsys.readouterr() == ("", "")


def test_a_failed_run_leaves_a_gap_and_its_reason(tmp_path, capsys, monkeypatch):
    tiny.use(monkeypatch)
    given = ("digits", TEXTS, ["fl", "ce"], [0])
    forward = FocalLoss.forward
    with monkeypatch.context() as patch:
        patch.setattr(FocalLoss, "forward", lambda *given: forward(*given) * math.nan)
        comparison = compare_recipes(*given, out=tmp_path, shown=False)
    ((failed,), (done,)) = comparison.runs.values()
    assert list(comparison.failures) == [failed.path]
    accuracy = f"{done.summary['accuracy']['last']:.2f}"
    assert comparison.table(("accuracy",))[1:] == [["fl", "0", "—"], ["ce", "1", accuracy]]
    reason = "loss or gradient is not finite in epoch 1, step 1"
    text = (tmp_path / "digits" / "compare.md").read_text(encoding="utf-8")
    assert f"Failed: {failed.path}: {reason}" in text
    assert reason in capsys.readouterr().err
    assert not compare_recipes(*given, out=tmp_path, shown=False).failures


def test_jobs_are_passed_on(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("ffds.reports.comparison.train_all", lambda *_, jobs, **__: asked.append(jobs) or {})
    for how in ({"devices": [1, 0]}, {"scheduler": "tcp://HOST:8786"}):
        compare("digits", methods=["ce"], out=tmp_path, overrides=OVERRIDES, **how)
    assert asked == [Jobs(2, (1, 0)), Jobs(scheduler="tcp://HOST:8786")]


@pytest.mark.parametrize(
    ("overrides", "methods", "seeds"),
    [
        (TEXTS, ["ce", "cee"], [0]),
        (("schedule.epocs=2",), ["ce"], [0]),
        (TEXTS, ["ce"], [0, -1]),
        (TEXTS, [], [0]),
        (TEXTS, ["ce"], []),
        ((*TEXTS, "trainer.seed=3"), ["ce"], [0]),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(overrides, methods, seeds, tmp_path, monkeypatch):
    monkeypatch.setattr("ffds.reports.comparison.train_all", lambda *_, **__: pytest.fail("trains"))
    with pytest.raises(InputError):
        compare_recipes("digits", overrides, methods, seeds, out=tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write there"):
        compare_recipes("digits", TEXTS, ["ce"], [0], out=tmp_path / "file")


def test_your_own_images_are_compared_by_their_content(tmp_path, capsys):
    root = write_folder(tmp_path / "photos", {"a": 8, "b": 4}, {"a": 3, "b": 3})
    copy = shutil.copytree(root, tmp_path / "copy")

    def compared(place):
        found = compare("own-folder", methods=["ce"], overrides=SMALL | {"data.root": place}, out=tmp_path)
        return found, capsys.readouterr().err.splitlines()[0]

    (first, _), (again, plan) = compared(root), compared(copy)
    assert plan == "plan: 1 runs, 2 epochs: 2 done, 0 shared, 0 to train"
    assert again.runs == first.runs
    write_picture(root / "test/a/000.jpg", 99)
    other, plan = compared(root)
    assert plan == "plan: 1 runs, 2 epochs: 0 done, 0 shared, 2 to train"
    assert not other.failures
    assert other.runs["ce"][0].done
    assert other.runs != first.runs
