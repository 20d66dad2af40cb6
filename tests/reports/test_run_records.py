"""Lines of finished runs: from directories, to a runs.csv, and back."""

import csv
from dataclasses import astuple
from pathlib import Path

import pytest

from ffds.errors import InputError
from ffds.reports.run_records import (
    csv_text,
    finished_runs,
    identity,
    measured,
    provenance,
    read_csv,
    read_runs,
)
from tests.paper import made

RESULTS = Path(__file__).parents[2] / "results"
COLUMNS = (
    "recipe method settings seed protocol epochs accuracy_last best_on_test best_epoch head middle tail "
    "train_accuracy seconds hardware torch commit command"
)


@pytest.fixture
def out(tmp_path):
    made.run(tmp_path, made.recipe("schedule.epochs=4", method="ce"), best=None, checkpoint=False)
    made.run(tmp_path, made.recipe("method.k=0.5", "trainer.compile=true", "schedule.epochs=4"))
    return tmp_path


def test_a_line(out):
    lines = read_runs(out)
    assert astuple(lines[1]) == (
        *("cifar100-lt-100", "d-ffds", "method.k=0.5; trainer.compile=true", 0, "4-epochs", 4),
        *(40.0, 41.0, 3, 60.0, 35.0, 5.5, 90.0, 12.5, "2 cores of X", "2.13", "abc", "ffds table 1a"),
    )
    assert (lines[0].method, lines[0].settings, lines[0].best_on_test) == ("ce", "", None)


def test_a_line_has_the_identity_of_its_recipe(out):
    for run, line in zip(finished_runs(out), read_runs(out), strict=True):
        assert line.identity == identity(run.recipe)


def test_there_and_back(out):
    lines = read_runs(out)
    file = out / "runs.csv"
    file.write_text(csv_text(lines), encoding="utf-8")
    assert read_csv(file) == lines
    with file.open(encoding="utf-8") as opened:
        assert next(csv.reader(opened)) == COLUMNS.split()


def test_text_that_csv_has_to_quote(out):
    awkward = {**made.ENVIRONMENT, "command": 'ffds table 1a "data.cut=[1,\n2]"', "hardware": "a, b"}
    made.run(out, made.recipe("schedule.epochs=4", method="fl"), environment=awkward)
    lines = read_runs(out)
    (out / "runs.csv").write_text(csv_text(lines), encoding="utf-8")
    assert read_csv(out / "runs.csv") == lines
    assert awkward["command"] in {line.command for line in lines}


def test_a_measured_run_of_this_repository():
    lines = {line.method: line for line in read_runs(RESULTS / "runs") if line.epochs == 30}
    assert (lines["ce"].accuracy_last, lines["d-ffds"].accuracy_last) == (32.0, 32.52)
    assert lines["ce"].protocol == "30-epochs"
    assert lines["d-ffds"].settings == "trainer.compile=true"


def test_unfinished_runs_and_other_directories_have_no_line(out):
    first = finished_runs(out)[0]
    (first.path / "summary.json").unlink()
    (out / "stray").mkdir()
    (out / "stray" / "summary.json").write_text("{}")
    assert len(finished_runs(out)) == 1
    assert read_runs(out / "nowhere") == []


def test_a_run_of_an_installed_package_has_no_commit(tmp_path):
    one = made.recipe("schedule.epochs=1", method="ce")
    run = made.run(tmp_path, one, environment={**made.ENVIRONMENT, "commit": None})
    assert measured(run).commit == "unknown"


def test_a_run_that_cannot_be_read_is_named_and_left_out(out, capsys):
    broken = finished_runs(out)[0].path
    (broken / "recipe.yaml").write_text("data: {name: nothing}\n")
    assert [line.method for line in read_runs(out)] == ["d-ffds"]
    said = capsys.readouterr().err
    assert str(broken) in said
    assert "data.name" in said


def test_a_missing_file():
    with pytest.raises(InputError, match="cannot be read"):
        read_csv("nowhere.csv")


def test_a_missing_column(out):
    lines = csv_text(read_runs(out)).replace("accuracy_last", "accuracy").replace("torch", "version", 1)
    (out / "runs.csv").write_text(lines)
    with pytest.raises(InputError, match="no column accuracy_last, torch"):
        read_csv(out / "runs.csv")


def test_a_field_that_is_no_number(out):
    text = csv_text(read_runs(out))
    (out / "runs.csv").write_text(text.replace(",40.0,41.0,3,", ",40.0,much,3,"))
    with pytest.raises(InputError, match="best_on_test is not a number") as caught:
        read_csv(out / "runs.csv")
    assert "runs.csv:3" in str(caught.value)
    assert "'much'" in str(caught.value)


def test_provenance_tells_each_place_once_with_its_commands(out):
    other = {**made.ENVIRONMENT, "hardware": "H", "versions": {"torch": "9"}}
    made.run(out, made.recipe("schedule.epochs=4", method="fl"), environment=other)
    again = {**made.ENVIRONMENT, "command": "ffds train"}
    made.run(out, made.recipe("schedule.epochs=4", method="ib"), environment=again)
    assert provenance(read_runs(out)) == [
        "Measured on 2 cores of X; torch 2.13; commit abc; `ffds table 1a`, `ffds train`.",
        "Measured on H; torch 9; commit abc; `ffds table 1a`.",
    ]
    assert provenance([]) == []


def test_the_summary_of_a_made_run_is_like_a_real_one(out):
    real = finished_runs(RESULTS / "runs")[0].summary
    assert list(finished_runs(out)[0].summary) == list(real)
