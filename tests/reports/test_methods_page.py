"""The tables of methods in README and docs/methods.md are those of the registry and of the measured runs."""

import re
from pathlib import Path

import pytest

from ffds.methods.facts import about, costs, facts
from ffds.methods.registry import GROUPS, METHODS
from ffds.reports.methods_page import measured, with_tables
from ffds.reports.run_records import read_csv

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "docs/methods.md"]
RUNS = read_csv(ROOT / "results" / "runs.csv")


@pytest.mark.parametrize("page", PAGES)
def test_the_tables_are_those_of_the_registry(page):
    text = (ROOT / page).read_text("utf-8")
    assert text == with_tables(text, RUNS), f"run: python -m ffds.reports.methods_page {' '.join(PAGES)}"
    assert re.findall(r"^\| `([a-z-]+)` \|", text, flags=re.MULTILINE) == list(METHODS)


def test_every_method_is_in_one_group_and_what_it_is_fits_a_line():
    assert sum(map(len, GROUPS.values())) == len(METHODS)
    assert {name: about(name) for name in METHODS if not 5 < len(about(name)) < 110} == {}
    assert not [name for name in METHODS if re.search(r"\d{4}\)$|\.$", about(name))], (
        "the source stands apart"
    )


def test_measured_numbers_are_of_the_shipped_settings_in_bfloat16():
    of = {
        r.columns["settings"]: r
        for r in RUNS
        if (r.recipe, r.method, r.epochs) == ("cifar100-lt-100", "d-ffds", 200)
    }
    (ours,) = [r for text, r in of.items() if "bf16" in text and "weight_scale" not in text]
    assert len(of) > 1
    assert measured("d-ffds", RUNS, 200).values == (ours.accuracy_last,)
    assert str(measured("d-ffds", RUNS, 199)) == "—"


def test_costs_are_shown_where_they_were_measured():
    assert {name: facts(name)["step_beside_ce"] for name in METHODS} == {
        name: costs().get("step_beside_ce", {}).get(name) for name in METHODS
    }


def test_the_advice_names_methods_that_there_are():
    named = set(re.findall(r"`method=([a-z-]+)`", (ROOT / "docs/methods.md").read_text("utf-8")))
    assert len(named) > 5
    assert named <= METHODS.keys()
