"""Tables as text, and that every form tells the same."""

import csv
import io
import re
from pathlib import Path

import pytest

from ffds.errors import NonFiniteLossError
from ffds.paper.table_plan import planned_table
from ffds.paper.tables import (
    Failure,
    caption,
    cell_records,
    filled_table,
    footnotes,
    latex,
    markdown,
    rows,
    runs_rows,
    table_csv,
    write_table,
)
from ffds.reports.run_records import identity, records
from tests.finished_runs import recipe, write_run

SHORT = "schedule.epochs=2"


@pytest.fixture
def table(tmp_path):
    """One row measured with two seeds, one failed, one missing; two columns, nothing in the second."""
    for seed, last in ((0, 40.0), (1, 42.0)):
        one = recipe(SHORT, f"trainer.seed={seed}")
        write_run(tmp_path, one, last=last, best=last + 1, checkpoint=False)
    plan = planned_table(
        "1a",
        columns=["cifar100-lt-100", "cifar100-lt-10"],
        methods=["ce", "fl", "d-ffds"],
        overrides=[SHORT, "data.root=there"],
    )
    error = NonFiniteLossError("loss is not finite\n  diagnosis: a file")
    failure = Failure(Path("runs/fl"), identity(recipe(SHORT, method="fl")), error)
    return filled_table(plan, records(tmp_path), failures=[failure])


def test_rows(table):
    assert rows(table, "CIFAR-100-LT, IF 100") == [
        ["method", "n", "accuracy", "paper", "difference", "best on test"],
        ["CE", "0", "—", "38.85", "—", "—"],
        ["FL", "0", "failed", "38.41", "—", "—"],
        ["D-FFDS", "2", "41.00 ± 1.41", "43.46", "-2.46", "42.00 ± 1.41"],
    ]


def test_a_gain_has_a_sign(tmp_path):
    write_run(tmp_path, recipe(SHORT, method="ce"), last=40.0, checkpoint=False)
    plan = planned_table("1a", columns=["cifar100-lt-100"], methods=["ce"], overrides=[SHORT])
    assert rows(filled_table(plan, records(tmp_path)), "CIFAR-100-LT, IF 100")[1][4] == "+1.15"


def test_the_caption_says_what_the_numbers_are(table):
    text = caption(table)
    assert "Protocol 2-epochs: not the published length" in text
    assert "chosen on the test set" in text
    assert "there" not in text
    assert "Settings" not in text
    changed = filled_table(planned_table("1c", overrides=["optimizer.lr=0.2", "trainer.compile=true"]), [])
    assert "Protocol full: as many epochs as published" in caption(changed)
    assert "Settings on top of the recipes: optimizer.lr=0.2." in caption(changed)
    assert "Label smoothing stays in all rows" in caption(changed)


def test_footnotes(table):
    assert footnotes(table) == [
        "Failed: runs/fl: loss is not finite",
        "Measured on 2 cores of X; torch 2.13; commit abc; `ffds table 1a`.",
    ]


def test_markdown(table):
    text = markdown(table)
    assert text.startswith("# Table 1a: every method on every dataset\n\nTable 1a, every")
    assert "## CIFAR-100-LT, IF 100\n\n| method | n |" in text
    assert "\n| --- | ---: | ---: | ---: | ---: | ---: |\n" in text
    assert "\n| D-FFDS | 2 | 41.00 ± 1.41 | 43.46 | -2.46 | 42.00 ± 1.41 |\n" in text
    assert "\n| FL | 0 | failed | 38.41 | — | — |\n" in text
    assert "\n| D-FFDS | 0 | — | 58.82 | — | — |\n" in text
    assert text.endswith("`ffds table 1a`.\n")


def test_latex(table):
    lines = latex(table).splitlines()
    body = [line for line in lines if line.endswith(r"\\")]
    assert [line.count("&") for line in body] == [2] * (1 + 3 * 4)
    assert r"D-FFDS & $41.00 \pm 1.41$ (2) & --- \\" in body
    assert r"\quad paper & 43.46 & 58.82 \\" in body
    assert r"\quad difference & $-2.46$ & --- \\" in body
    assert r"\quad best on test & $42.00 \pm 1.41$ & --- \\" in body
    assert r"FL & failed & --- \\" in body
    printed = [line for line in lines if not line.startswith("%")]
    assert printed[:2] == [r"\begin{tabular}{lrr}", r"\toprule"]
    assert printed[-2:] == [r"\bottomrule", r"\end{tabular}"]
    assert all(character.isascii() for line in printed for character in line)
    assert lines[0].startswith("% Table 1a")


def test_latex_takes_no_name_for_a_command(tmp_path):
    file = tmp_path / "my_50%_tail.yaml"
    file.write_text("name: my_tail\ndata: {name: digits}\n")
    plan = planned_table("1a", columns=[str(file)], methods=["ce"])
    lines = [line for line in latex(filled_table(plan, [])).splitlines() if not line.startswith("%")]
    assert any(r"my\_50\%\_tail" in line for line in lines)
    assert not re.search(r"(?<!\\)[_%#]", "\n".join(lines))


def test_csv_is_the_records(table):
    lines = list(csv.DictReader(io.StringIO(table_csv(table))))
    assert len(lines) == len(cell_records(table)) == 6
    assert lines[2] == {
        "table": "1a",
        "protocol": "2-epochs",
        "column": "CIFAR-100-LT, IF 100",
        "row": "D-FFDS",
        "n": "2",
        "seeds": "0 1",
        "accuracy_mean": "41.0",
        "accuracy_std": "1.4142",
        "paper": "43.46",
        "difference": "-2.46",
        "best_on_test_mean": "42.0",
        "best_on_test_std": "1.4142",
        "failed": "False",
    }
    assert lines[0]["accuracy_mean"] == lines[0]["difference"] == ""
    assert lines[1]["failed"] == "True"


def test_all_forms_are_written(table, tmp_path):
    paths = write_table(table, tmp_path / "a" / "b")
    assert [path.name for path in paths] == ["table-1a.md", "table-1a.tex", "table-1a.csv"]
    assert [path.read_text(encoding="utf-8") for path in paths] == [
        *(markdown(table), latex(table), table_csv(table))
    ]


def test_runs(table):
    header, *body = runs_rows(table.sources)
    assert header[:5] == ["recipe", "method", "settings", "seed", "protocol"]
    assert body[1] == ["cifar100-lt-100", "d-ffds", "", "1", "2-epochs", "42.00", "43.00", "5.50"]
