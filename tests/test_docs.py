"""The documentation shows what was measured, to the last digit; its commands parse and its links resolve."""

import json
import re
import shlex
from pathlib import Path

import pytest
from benchmarks.result import page
from benchmarks.scaling import Point, scaling_table
from benchmarks.step_parts import Share, parts_table

from benchmarks import gpu
from ffds.cli.main import parsed
from ffds.paper.reproduce import reproduced
from ffds.paper.table_plan import planned_table
from ffds.paper.tables import rows
from ffds.recipes.load import load_recipe, recipe_text, shipped_recipes
from ffds.reports.formatting import markdown_table
from ffds.reports.run_records import identity, read_csv

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
TABLES = [
    pytest.param(command, text, id=f"{page.name}: {command}")
    for page in PAGES
    for command, text in re.findall(
        r"<!-- (ffds table [^\n]*?) -->\n+(.*?)\n+<!-- end -->", page.read_text("utf-8"), flags=re.DOTALL
    )
]
SCALES = [
    pytest.param(*found, id=found[0])
    for found in re.findall(
        r"<!-- weight scales: ([^\n]*?) -->\n+(.*?)\n+<!-- end -->",
        (ROOT / "docs" / "reproduction.md").read_text("utf-8"),
        flags=re.DOTALL,
    )
]
WRITTEN = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "results/README.md")]
WRITTEN += [ROOT / "benchmarks" / "README.md", *PAGES]
COMMAND = re.compile(r"^(ffds .*)$|`(ffds (?:table|figure) [^`]+)`", flags=re.MULTILINE)
MEASURED = [name for name in shipped_recipes() if "\n# Measured" in recipe_text(name)]
assert all((TABLES, SCALES, MEASURED)), "nothing to test"


@pytest.mark.parametrize(("command", "text"), TABLES)
def test_a_table_is_what_its_command_prints(command, text, monkeypatch):
    monkeypatch.chdir(ROOT)
    options = parsed(shlex.split(command)[1:])
    plan = planned_table(
        options.table, columns=options.columns, methods=options.methods, overrides=options.overrides
    )
    table = reproduced(plan, seeds=options.seeds, runs=options.runs)
    (column,) = table.columns
    assert text == markdown_table(rows(table, column))


@pytest.mark.parametrize(("settings", "text"), SCALES)
def test_the_weight_scales_are_those_measured(settings, text):
    recipe, *overrides = settings.split()
    found = {line.identity: line for line in read_csv(ROOT / "results" / "runs.csv") if line.seed == 0}
    rows = [["`method.weight_scale`", "accuracy", "head", "middle", "tail", "train", "best on test"]]
    for title, method, *scale in (
        ("`mean`", "d-ffds"),
        ("`none`", "d-ffds", "method.weight_scale=none"),
        ("`released`", "d-ffds", "method.weight_scale=released"),
        ("cross-entropy to the end", "ce"),
    ):
        line = found[identity(load_recipe(recipe, [*overrides, *scale], method=method).recipe)]
        groups = (line.measures[name] for name in ("head", "middle", "tail"))
        numbers = (line.accuracy_last, *groups, line.train_accuracy, line.best_on_test)
        rows.append([title, *(f"{number:.2f}" for number in numbers)])
    assert text == markdown_table(rows)


@pytest.mark.parametrize("name", MEASURED)
def test_the_header_of_a_recipe_quotes_the_measured_runs(name):
    quoted = r"# Measured +(\d+) epochs[^:]*, seed (\d+): (.*?)\s[#\s]*\(results/runs\.csv\)"
    ((epochs, seed, results),) = re.findall(quoted, recipe_text(name))
    # Those of the recipe's own settings: how long, and how fast, may differ.
    accuracies = {
        line.method: f"{line.accuracy_last:.2f}"
        for line in read_csv(ROOT / "results" / "runs.csv")
        if (line.recipe, line.seed, line.epochs, line.identity.settings)
        == (name, int(seed), int(epochs), set())
    }
    for method, accuracy in (shown.split(" ") for shown in results.split(", ")):
        assert accuracies[method.lower()] == accuracy


def read(path: str) -> str:
    return (ROOT / path).read_text("utf-8")


def test_the_page_on_a_gpu_shows_what_was_measured():
    measured = json.loads(read("results/gpu/speed.json"))
    assert read("results/gpu/speed.md") == gpu.page(measured)
    figures = measured["methods"]["figures"]
    accuracies = {figure["row"]: figure["value"] for figure in figures if figure["column"] == "accuracy"}
    lines = read_csv(ROOT / "results" / "gpu" / "runs.csv")
    assert accuracies == {line.method: line.accuracy_last for line in lines}


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve_and_commands_parse(page):
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / target).exists(), target
    for command in map("".join, COMMAND.findall(text.replace("\\\n", " "))):
        parsed(shlex.split(command, comments=True)[1:])


def test_the_tests_that_reliability_rests_on_exist():
    pages = read("docs/reliability.md") + read("SECURITY.md")
    found = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", pages)
    assert len(found) > 50
    for file, name in found:
        assert f"def {name}" in read(file), (file, name)


def test_the_page_on_scaling_shows_what_was_measured():
    page = read("results/scaling.md")
    for part, measured in json.loads(read("results/scaling.json")).items():
        points = [Point(**point) for point in measured["points"]]
        (table,) = re.findall(rf"<!-- scaling: {part} -->\n+(.*?)\n+<!-- end -->", page, flags=re.DOTALL)
        assert table == scaling_table(points, part)
        assert measured["commit"] in page


def test_the_benchmarks_are_those_measured():
    measured = json.loads(read("results/step_parts.json"))
    for part in (parts_table(Share(**share) for share in measured["shares"]), measured["commit"]):
        assert part in read("benchmarks/README.md")
    assert read("results/bench.md") == page(json.loads(read("results/bench.json")))
