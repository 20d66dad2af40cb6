"""The verbs table and figure, as a user types them."""

import csv
import json
from pathlib import Path

import pytest

from ffds.cli import main
from ffds.cli.paper import FIGURES, TABLES
from ffds.data.long_tail import long_tail_counts
from ffds.errors import NonFiniteLossError
from ffds.paper import figures, table_plan
from ffds.run_directory import Run
from tests.finished_runs import recipe, train_by_hand, write_run

SHORT = "schedule.epochs=2"
QUICK = [SHORT, "data.imbalance_factor=100", "model.name=resnet8"]


@pytest.fixture
def out(tmp_path):
    place = tmp_path / "runs"
    for method in ("ce", "cb-fl", "ffds", "d-ffds"):
        write_run(place, recipe(SHORT, method=method))
    return place


def test_the_choices_are_those_of_the_paper():
    assert (*table_plan.TABLES, "runs") == TABLES
    assert tuple(figures.FIGURES) == FIGURES


@pytest.mark.parametrize("columns", ["80", "120"])
def test_a_table_fits_the_terminal(columns, out, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    arguments = ["table", "1a", "--columns", "cifar100-lt-100,tiny-imagenet-lt-100"]
    assert main([*arguments, "--no-train", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    shown, _, _ = printed.partition("Measured on")
    assert max(map(len, shown.splitlines())) <= int(columns)
    for text in ("LDAM-DRW", "D-FFDS", "accuracy", "best on test", "CIFAR-100-LT, IF 100", "43.46", "43.86"):
        assert text in shown
    assert "40.00" not in printed, "these runs are short, the table is not"


def test_the_protocol_is_chosen_with_the_epochs_and_the_table_is_saved(out, capsys):
    arguments = ["table", "1a", "--columns", "cifar100-lt-100", "--no-train", "--out", str(out), SHORT]
    assert main([*arguments, "--save", str(out / "tables")]) == 0
    printed = capsys.readouterr().out
    assert printed.count("40.00") == 4
    assert "Protocol 2-epochs" in printed
    files = {path.name for path in (out / "tables").iterdir()}
    assert files == {"table-1a.md", "table-1a.tex", "table-1a.csv"}
    assert f"written: {out / 'tables' / 'table-1a.md'}" in printed


@pytest.mark.parametrize("name", ["summary.json", "recipe.yaml", "environment.json", "metrics.jsonl"])
def test_a_damaged_run_is_named_and_the_others_are_shown(name, out, tmp_path, capsys):
    damaged = Run.of(recipe(SHORT, method="ffds"), out).path / name
    damaged.write_text("[" * 100_000 + "\n")
    few = ["--methods", "ce,ffds", SHORT]
    table = ["table", "1a", "--columns", "cifar100-lt-100", *few]
    for verb, code in (
        (["table", "runs"], 0),
        ([*table, "--no-train"], 0),
        (table, 2),
        (["compare", "cifar100-lt-100", *few], 2),
        (["figure", "1", SHORT, "--save", str(tmp_path)], 2),
    ):
        assert main([*verb, "--out", str(out)]) == code, verb
        printed, err = capsys.readouterr()
        assert str(damaged) in err
        assert ("40.00" in printed) == (verb[0] != "figure")
    assert f"Failed: {damaged.parent}: " in (out / "cifar100-lt-100" / "compare.md").read_text()


def test_runs_csv_and_back(out, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    saved = tmp_path / "results"
    assert main(["table", "runs", "--out", str(out), "--save", str(saved)]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert printed.count("2-epochs") == 4
    with (saved / "runs.csv").open(encoding="utf-8") as opened:
        assert [line["method"] for line in csv.DictReader(opened)] == ["cb-fl", "ce", "d-ffds", "ffds"]
    file = str(saved / "runs.csv")
    assert main(["table", "2b", "--runs", file, SHORT, "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)
    rows = [("concave", 40.0), ("convex", None), ("linear", None)]
    assert [(cell["row"], cell["accuracy_mean"]) for cell in cells] == rows
    chosen = (["--methods", "ce,ffds", "--seeds", "0"], ["--columns", "digits"], ["--seeds", "1"])
    for choice, methods in zip(chosen, (["ce", "ffds"], [], []), strict=True):
        assert main(["table", "runs", "--runs", file, *choice, "--json"]) == 0
        assert [line["method"] for line in json.loads(capsys.readouterr().out)] == methods


@pytest.mark.parametrize(
    "arguments",
    [["table", "1a", "--columns", "digits"], ["table", "runs"], ["figure", "5a"], ["figure", "2a"]],
)
def test_what_cannot_be_saved_is_told_before_training(arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ffds.jobs.engine.train_all", lambda *_, **__: pytest.fail("trains"))
    (tmp_path / "file").touch()
    assert main([*arguments, "--out", str(tmp_path), "--save", str(tmp_path / "file")]) == 2
    message = capsys.readouterr().err
    assert str(tmp_path / "file") in message
    assert "--save DIR" in message


def test_a_figure_names_its_files_and_what_is_missing_from_it(out, tmp_path, capsys):
    saved = tmp_path / "drawn"
    arguments = ["figure", "5b", "--no-train", "--out", str(out), "--save", str(saved), SHORT]
    assert main(arguments) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == [str(saved / f"figure-5b.{ending}") for ending in ("svg", "pdf", "png", "csv")]
    assert all(Path(path).stat().st_size for path in printed)
    assert main(["figure", "4", "--save", str(saved), f"data.root={tmp_path / 'none'}"]) == 0
    assert "note: bars alone, without images" in capsys.readouterr().err


def test_a_failed_training_is_a_gap_and_decides_the_exit_code(tmp_path, capsys, monkeypatch):
    train_by_hand(monkeypatch, fl=NonFiniteLossError("nan in epoch 1\n  fix: lower"))
    arguments = ["table", "1a", "--columns", "cifar100-lt-100", "--methods", "ce,fl", SHORT]
    assert main([*arguments, "--out", str(tmp_path), "--save", str(tmp_path)]) == 3
    said = capsys.readouterr()
    assert "failed" in said.out
    assert "nan in epoch 1" in said.err
    text = (tmp_path / "table-1a.md").read_text(encoding="utf-8")
    assert "| FL | 0 | failed | 38.41 | — | — |" in text
    assert "\nFailed: " in text


def test_a_table_and_a_figure_from_real_trainings(tmp_path, capsys):
    """Digits, two epochs: trained once, then found; the shared first epoch is trained once, too."""
    arguments = ["--out", str(tmp_path), *QUICK]
    table = ["table", "1a", "--columns", "digits", "--methods", "ce,d-ffds", "--json", *arguments]
    assert main(table) == 0
    first = capsys.readouterr()
    cells = json.loads(first.out)
    names = [("CE", 1, None), ("D-FFDS", 1, None)]
    assert [(cell["row"], cell["n"], cell["paper"]) for cell in cells] == names
    assert all(0 <= cell["accuracy_mean"] <= cell["best_on_test_mean"] <= 100 for cell in cells)
    assert "1 shared" in first.err
    assert main(table) == 0
    again = capsys.readouterr()
    assert (again.out, again.err) == (first.out, "")
    saved = tmp_path / "drawn"
    for name in ("3", "5a"):
        drawing = ["figure", name, "--recipe", "digits", "--no-train", "--save", str(saved), *arguments]
        assert main(drawing) == 0
    with (saved / "figure-3.csv").open(encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    assert len(rows) == sum(long_tail_counts(124, 10, 100))
    assert all(0 <= float(row["after"]) <= 1 for row in rows)
    with (saved / "figure-5a.csv").open(encoding="utf-8") as opened:
        gains = [float(row["difference"]) for row in csv.DictReader(opened)]
    ce, ours = (cell["accuracy_mean"] for cell in cells)
    assert sum(gains) / len(gains) == pytest.approx(ours - ce)
