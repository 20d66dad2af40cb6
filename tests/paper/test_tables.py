"""Which runs fill a cell, the arithmetic in it, and that every form of a table says the same."""

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest

from ffds.errors import FfdsError, NonFiniteLossError
from ffds.paper import tables
from ffds.paper.table_plan import Failure, planned_table
from ffds.paper.tables import caption, cell_records, filled_table, latex, markdown, rows, table_csv
from ffds.reports.run_records import identity, records
from tests.finished_runs import recipe, write_run

SHORT = "schedule.epochs=2"


def filled(out, *overrides, columns=("cifar100-lt-100",), methods=("ce", "d-ffds"), order=1, **how):
    plan = planned_table("1a", columns=columns, methods=methods, overrides=[SHORT, *overrides])
    return filled_table(plan, records(out)[::order], **how)


def run(out, *overrides, method="d-ffds", **numbers):
    write_run(out, recipe(SHORT, *overrides, method=method), checkpoint=False, **numbers)


def failure(method):
    error = NonFiniteLossError("loss is not finite\n  diagnosis: a file")
    return Failure(Path("runs") / method, identity(recipe(SHORT, method=method)), error)


# Cells


def test_runs_of_several_seeds_fill_one_cell(tmp_path):
    run(tmp_path, "trainer.seed=2", last=44.0, best=45.0)
    run(tmp_path, "trainer.seed=0", last=40.0, best=None)
    ce, ours = filled(tmp_path).cells
    assert (ours.seeds, ours.last.values, ours.best.values) == ((0, 2), (40.0, 44.0), (45.0,))
    assert ours.difference == pytest.approx(42.0 - 43.46)
    assert (ce.row, ce.column, ce.paper) == ("CE", "CIFAR-100-LT, IF 100", 38.85)
    assert (ce.seeds, ce.last.values, ce.difference, ce.shown) == ((), (), None, "—")
    table = filled(tmp_path, seeds=(1, 2, 9))
    assert table.cells[1].last.values == (44.0,)
    assert [record.seed for record in table.sources] == [2]


def test_runs_of_other_settings_do_not_mix(tmp_path):
    run(tmp_path, last=40.0)
    run(tmp_path, "method.k=0.5", last=10.0)
    assert filled(tmp_path).cells[1].last.values == (40.0,)
    assert filled(tmp_path, "method.k=0.5", methods=["d-ffds"]).cells[0].last.values == (10.0,)


def test_where_it_was_measured_does_not_matter_and_the_last_record_of_a_seed_counts(tmp_path):
    run(tmp_path, "trainer.compile=true", "data.root=there", last=40.0)
    assert filled(tmp_path).cells[1].last.values == (40.0,)
    run(tmp_path, last=42.0)
    assert {filled(tmp_path, order=order).cells[1].last.values for order in (1, -1)} == {(40.0,), (42.0,)}


def test_a_failure_marks_its_cell_unless_another_seed_filled_it(tmp_path):
    run(tmp_path, last=40.0)
    ce, ours = filled(tmp_path, failures=[failure("ce"), failure("d-ffds")]).cells
    assert [(cell.failed, cell.shown) for cell in (ce, ours)] == [(True, "failed"), (True, "40.00")]


# Text


@pytest.fixture
def table(tmp_path):
    """One row measured with two seeds, one failed, one missing; two columns, nothing in the second."""
    for seed, last in ((0, 40.0), (1, 42.0)):
        run(tmp_path, f"trainer.seed={seed}", last=last, best=last + 1)
    columns, methods = ("cifar100-lt-100", "cifar100-lt-10"), ("ce", "fl", "d-ffds")
    return filled(tmp_path, "data.root=there", columns=columns, methods=methods, failures=[failure("fl")])


def test_rows(table, tmp_path):
    lines = rows(table, "CIFAR-100-LT, IF 100")
    assert lines[0] == ["method", "n", "accuracy", "paper", "difference", "best on test"]
    assert lines[3] == ["D-FFDS", "2", "41.00 ± 1.41", "43.46", "-2.46", "42.00 ± 1.41"]
    run(tmp_path, method="ce", last=40.0)
    assert rows(filled(tmp_path), "CIFAR-100-LT, IF 100")[1][4] == "+1.15"


def test_the_caption_says_what_the_numbers_are(table):
    text = caption(table)
    assert "Protocol 2-epochs: not the published length" in text
    assert "Settings" not in text
    assert "data.root" not in text
    changed = filled_table(planned_table("1c", overrides=["optimizer.lr=0.2", "trainer.compile=true"]), [])
    assert "Protocol full: as many epochs as published" in caption(changed)
    assert "Settings on top of the recipes: optimizer.lr=0.2." in caption(changed)
    assert "Label smoothing stays in all rows" in caption(changed)


def test_markdown(table):
    text = markdown(table)
    assert text.startswith("# Table 1a: every method on every dataset\n\nTable 1a, every")
    assert "## CIFAR-100-LT, IF 100\n\n| method | n |" in text
    assert "\n| CE | 0 | — | 38.85 | — | — |\n" in text
    assert "\n| D-FFDS | 2 | 41.00 ± 1.41 | 43.46 | -2.46 | 42.00 ± 1.41 |\n" in text
    assert "\n| FL | 0 | failed | 38.41 | — | — |\n" in text
    assert "\n| D-FFDS | 0 | — | 58.82 | — | — |\n" in text
    assert text.endswith("\n\n".join(["", *tables.footnotes(table)]) + "\n")
    assert tables.footnotes(table) == [
        "Failed: runs/fl: loss is not finite",
        "Measured on 2 cores of X; torch 2.13; commit abc; `ffds table 1a`.",
    ]


def test_latex(table):
    lines = latex(table).splitlines()
    body = [line for line in lines if line.endswith(r"\\")]
    assert [line.count("&") for line in body] == [2] * (1 + 3 * 4)
    assert body[-4:] == [
        r"D-FFDS & $41.00 \pm 1.41$ (2) & --- \\",
        r"\quad paper & 43.46 & 58.82 \\",
        r"\quad difference & $-2.46$ & --- \\",
        r"\quad best on test & $42.00 \pm 1.41$ & --- \\",
    ]
    assert r"FL & failed & --- \\" in body
    assert lines[0].startswith("% Table 1a")
    printed = [line for line in lines if not line.startswith("%")]
    assert [*printed[:2], *printed[-2:]] == [
        *(r"\begin{tabular}{lrr}", r"\toprule", r"\bottomrule", r"\end{tabular}")
    ]
    assert "".join(printed).isascii()


def test_latex_takes_no_name_for_a_command(tmp_path):
    file = tmp_path / "my_50%_tail.yaml"
    file.write_text("name: my_tail\ndata: {name: digits}\n")
    text = latex(filled(tmp_path, columns=[str(file)]))
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    assert any(r"my\_50\%\_tail" in line for line in lines)
    assert not re.search(r"(?<!\\)[_%#]", "\n".join(lines))


def test_csv_has_the_records(table):
    lines = list(csv.DictReader(io.StringIO(table_csv(table))))
    assert len(lines) == len(cell_records(table)) == 6
    assert lines[2] == {
        **{"table": "1a", "protocol": "2-epochs", "column": "CIFAR-100-LT, IF 100", "row": "D-FFDS"},
        **{"n": "2", "seeds": "0 1", "accuracy_mean": "41.0", "accuracy_std": "1.4142", "paper": "43.46"},
        **{"difference": "-2.46", "best_on_test_mean": "42.0", "best_on_test_std": "1.4142"},
        "failed": "False",
    }
    assert (lines[0]["accuracy_mean"], lines[0]["difference"], lines[1]["failed"]) == ("", "", "True")


def test_names_are_text_in_every_form(table):
    hostile = Failure(Path("runs/<script>\n\\input{x}"), table.failures[0].identity, FfdsError("100%\n&"))
    table = replace(table, failures=[hostile], overrides=("data.label_column=a\n<b>|",))
    for text in (markdown(table), "\n".join(tables.footnotes(table))):
        assert r"\n\input{x}: 100%" in text
    assert "<" not in markdown(table)
    assert all(re.match(r"%|\\[a-z]|[\w-]+ ?.*& ", line) for line in latex(table).splitlines())
    assert tables._latex_words("\\a_b^~{$%&#") == r"\textbackslash{}a\_b\^{}\~{}\{\$\%\&\#"


def test_all_forms_are_written(table, tmp_path):
    paths = tables.write_table(table, tmp_path / "a" / "b")
    texts = {path.name: path.read_text(encoding="utf-8") for path in paths}
    forms = markdown(table), latex(table), table_csv(table)
    assert texts == dict(zip(("table-1a.md", "table-1a.tex", "table-1a.csv"), forms, strict=True))


def test_rows_of_runs(table):
    header, *body = tables.runs_rows(table.sources)
    assert header == ["recipe", "method", "settings", "seed", "protocol", "last", "best", "tail"]
    assert body[1] == ["cifar100-lt-100", "d-ffds", "", "1", "2-epochs", "42.00", "43.00", "5.50"]
