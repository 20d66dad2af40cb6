"""Records of finished runs, which of them repeat each other, and the ``runs.csv`` that holds them."""

from pathlib import Path

import pytest

from ffds.errors import InputError
from ffds.methods.registry import METHODS
from ffds.recipes.load import load_recipe
from ffds.recipes.schema import Recipe
from ffds.reports import run_records
from ffds.reports.formatting import provenance
from ffds.reports.run_records import (
    changed_settings,
    identity,
    protocol,
    read_csv,
    records,
    runs_csv,
)
from tests.finished_runs import ENVIRONMENT, recipe, write_run

RESULTS = Path(__file__).parents[2] / "results"

# Identity


@pytest.mark.parametrize(
    ("same", "override"),
    [
        *((True, f"trainer.{text}") for text in ("seed=7", "compile=true", "channels_last=false")),
        *((True, f"trainer.{text}") for text in ("devices=2", "deterministic=true", "accelerator=cpu")),
        *((True, f"trainer.{text}") for text in ("eval_every=5", "checkpoint_every=9")),
        *((True, f"data.{text}") for text in ("root=elsewhere", "download=true", "workers=2")),
        *((False, f"data.{text}") for text in ("imbalance_factor=50", "validation=0.1", "seed=1")),
        *((False, f"trainer.{text}") for text in ("batch_size=256", "precision=bf16")),
        *((False, f"method.{text}") for text in ("k=0.5", "weight_scale=none")),
        *((False, text) for text in ("optimizer.lr=0.2", "schedule.epochs=40", "model.name=resnet20")),
    ],
)
def test_what_can_change_the_result_decides_and_not_seed_machine_or_place(same, override):
    assert (identity(recipe(override)) == identity(recipe())) == same


@pytest.mark.parametrize("method", METHODS)
def test_a_shipped_recipe_has_no_changed_setting(method):
    assert changed_settings(recipe(method=method)) == ()


@pytest.mark.parametrize("method", ["ldam-drw", "d-ffds"])
def test_the_changed_settings_make_the_recipe_again(method):
    start = "method.start=0.5"
    changes = [start, "method.milestones=[[0.5, 0.1]]", "data.cut=[30, 40, 30]", "trainer.precision=bf16"]
    one = recipe(*changes, "data.augment=[]", "schedule.epochs=40", "trainer.seed=2", method=method)
    again = recipe(*changed_settings(one), "schedule.epochs=40", "trainer.seed=2", method=method)
    assert again == one
    assert start in changed_settings(one)
    assert changed_settings(recipe("method.k=1")) == ("method.k=1.0",), "however it was typed"


def test_a_recipe_that_is_not_shipped_is_compared_with_the_defaults(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("data: {name: digits, imbalance_factor: 20}\noptimizer: {lr: 0.3}\n")
    one = load_recipe(str(file), method="d-ffds").recipe
    assert changed_settings(one) == ("data.imbalance_factor=20.0", "optimizer.lr=0.3")
    assert protocol(one) == "full"


@pytest.mark.parametrize("source", ["folder", "parquet"])
def test_your_own_images_are_a_setting_and_their_directory_where_their_sum_is_not_known(source, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"data: {{name: {source}, root: flowers}}\n")
    flowers, birds = (load_recipe(str(file), more, method="ce").recipe for more in ([], ["data.root=birds"]))
    assert identity(flowers) != identity(birds)
    assert changed_settings(birds) == ("data.root=birds",)
    assert run_records.deciding_settings(changed_settings(birds)) == identity(birds).settings
    flowers, moved, birds = (
        one.with_images(f"sha256:{digit * 16}") for one, digit in ((flowers, "0"), (birds, "0"), (birds, "1"))
    )
    assert changed_settings(birds) == (f"data.images=sha256:{'1' * 16}",)
    assert identity(flowers) == identity(moved) != identity(birds)


def test_a_loss_of_your_own_is_a_setting():
    base, texts = recipe(method="ce").model_dump(), ("MyLoss(a; b=1)", "MyLoss(a; b=2)")
    methods = [{"method": {"name": "custom", "loss": text}} for text in texts]
    one, other = (Recipe.model_validate(base | method) for method in methods)
    assert changed_settings(one) == ("method.loss=MyLoss(a; b=1)",)
    assert identity(one) != identity(other)


@pytest.mark.parametrize(("name", "full"), [("cifar100-lt-100", 200), ("tiny-imagenet-lt-100", 100)])
def test_protocol(name, full):
    assert protocol(recipe(f"schedule.epochs={full}", name=name)) == "full"
    assert protocol(recipe("schedule.epochs=40", name=name)) == "40-epochs"


# Records


@pytest.fixture
def out(tmp_path):
    write_run(tmp_path, recipe("schedule.epochs=4", method="ce"), best=None, checkpoint=False)
    write_run(tmp_path, recipe("method.k=0.5", "trainer.compile=true", "schedule.epochs=4"))
    return tmp_path


def test_the_record_of_a_run(out):
    ce, d_ffds = records(out)
    assert d_ffds.columns == {
        **{"recipe": "cifar100-lt-100", "method": "d-ffds", "settings": "method.k=0.5; trainer.compile=true"},
        **{"seed": 0, "protocol": "4-epochs", "epochs": 4},
        **{"accuracy_last": 40.0, "best_on_test": 41.0, "best_epoch": 3},
        **{"head": 60.0, "middle": 35.0, "tail": 5.5, "train_accuracy": 90.0, "seconds": 12.5},
        **{"hardware": "2 cores of X", "torch": "2.13", "commit": "abc", "command": "ffds table 1a"},
    }
    assert (ce.method, ce.settings, ce.best_on_test) == ("ce", "", None)
    for run, record in run_records.readable_runs(out):
        assert record.identity == identity(run.recipe)


def test_csv_there_and_back(out):
    environment = {**ENVIRONMENT, "command": 'ffds table 1a "data.cut=[1,\n2]"', "hardware": "a, b"}
    write_run(out, recipe("schedule.epochs=4", method="fl"), environment=environment)
    (out / "runs.csv").write_text(runs_csv(records(out)), encoding="utf-8")
    assert read_csv(out / "runs.csv") == records(out)
    spreadsheet = out / "spreadsheet.csv"
    spreadsheet.write_text(runs_csv(records(out)), encoding="utf-8-sig")
    assert read_csv(spreadsheet) == records(out)
    assert environment["command"] in {record.command for record in read_csv(out / "runs.csv")}


@pytest.mark.parametrize("place", ["", "gpu/"])
def test_the_measured_runs_of_this_repository_give_their_csv_again(place):
    text = (RESULTS / f"{place}runs.csv").read_text(encoding="utf-8")
    assert runs_csv(records(RESULTS / f"{place}runs")) == text
    assert runs_csv(read_csv(RESULTS / f"{place}runs.csv")) == text


def test_unfinished_runs_and_other_directories_have_no_record(out):
    (next(run_records.readable_runs(out))[0].path / "summary.json").unlink()
    (out / "stray").mkdir()
    (out / "stray" / "summary.json").write_text("{}")
    assert len(records(out)) == 1
    assert records(out / "nowhere") == []


def test_a_run_that_cannot_be_read_is_reported_and_left_out(out, capsys):
    broken = next(run_records.readable_runs(out))[0].path
    (broken / "recipe.yaml").write_text("data: {name: nothing}\n")
    assert [record.method for record in records(out)] == ["d-ffds"]
    assert f"run {broken} is left out: " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["recipe.yaml", "summary.json", "environment.json", "metrics.jsonl"])
def test_a_damaged_run_never_has_a_record_of_its_own(name, out, capsys):
    """Cut at any place, it is reported or read as it was; so it is with garbage, however deep."""
    (_, before), (other, after) = (
        (run, run_records.run_record(run)) for run, _ in run_records.readable_runs(out)
    )
    file = other.path / name
    whole = file.read_bytes()
    cuts = [whole[:end] for end in range(0, len(whole), len(whole) // 20 + 1)]
    for content in [*cuts, b"[" * 100_000, b'{"a":' * 100_000, b"NaN", b"null", b"{}", b"\xff", b"\0" * 99]:
        file.write_bytes(content)
        assert records(out) in ([before], [before, after])
        reported = capsys.readouterr().err
        assert reported == "" or reported.startswith(f"warning: run {other.path} is left out: ")
    assert reported


def test_a_measure_that_an_earlier_version_did_not_know_is_not_available(out):
    run = next(run_records.readable_runs(out))[0]
    run.finish({name: value for name, value in run.summary.items() if name != "middle"})
    metrics = run.metrics
    del metrics[-1]["test"]["middle"]
    run.take_epochs(metrics)
    file = out / "runs.csv"
    file.write_text(runs_csv([run_records.run_record(run)]).replace("middle,", "").replace(",,5.5", ",5.5"))
    for record in (run_records.run_record(run), *read_csv(file)):
        assert record.measures == {"head": 60.0, "middle": None, "tail": 5.5}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("accuracy_last", "accuracy", "no column accuracy_last"),
        (",torch,", ",version,", "no column torch"),
        (",40.0,41.0,3,", ",40.0,much,3,", r"runs.csv:3(.|\n)*best_on_test: .* number, .*'much'"),
        *((",40.0,41.0,3,", f",{n},41.0,3,", "runs.csv:3(.|\n)*accuracy_last") for n in ("nan", "140", "")),
        (",40.0,41.0,3,", ",40.0,41.0,3.5,", "runs.csv:3(.|\n)*best_epoch"),
        (",40.0,41.0,3,", ",40.0,41.0,", r"runs.csv:3(.|\n)*17 fields(.|\n)*18"),
        (",40.0,41.0,3,", ",40.0,41.0,3,4,", r"runs.csv:3(.|\n)*19 fields(.|\n)*18"),
        ("method.k=0.5", "x" * 200_000, r"runs.csv:3(.|\n)*field larger than"),
        ("method.k=0.5", '"', "runs.csv:3(.|\n)*got"),
        ("method.k=0.5", "\udcff", "UTF-8(.|\n)*runs.csv:3"),
        (",torch,", ",hardware,torch,", "a column stands twice"),
    ],
)
def test_a_file_that_is_no_runs_csv(old, new, message, out):
    text = runs_csv(records(out)).replace(old, new)
    (out / "runs.csv").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(InputError, match=message):
        read_csv(out / "runs.csv")
    with pytest.raises(InputError, match="cannot be read"):
        read_csv(out / "nowhere.csv")


def test_provenance_names_each_place_once_with_its_commands(out):
    other = {"hardware": "H", "versions": {"torch": "9"}, "commit": None}
    for method, changed in (("fl", other), ("ib", {"command": "ffds train"})):
        write_run(out, recipe("schedule.epochs=4", method=method), environment=ENVIRONMENT | changed)
    assert provenance(record.source for record in records(out)) == [
        "Measured on 2 cores of X; torch 2.13; commit abc; `ffds table 1a`, `ffds train`.",
        "Measured on H; torch 9; commit unknown; `ffds table 1a`.",
    ]


def test_the_summary_of_a_made_run_is_like_a_real_one(out):
    real = next(run_records.readable_runs(RESULTS / "runs"))[0].summary
    assert list(next(run_records.readable_runs(out))[0].summary) == list(real)
