"""Arguments that are nearly right are told what they may have meant; --version, --quiet, several runs."""

import json
import os
from pathlib import Path

import pytest

import ffds
from ffds.cli import main
from ffds.environment import versions
from ffds.errors import QUIET
from tests.training import tiny


@pytest.mark.parametrize(
    ("command", "meant"),
    [
        ("trian digits", "did you mean train?"),
        ("data inof", "did you mean info?"),
        ("runs lst", "did you mean list?"),
        ("train digits --jsn", "did you mean --json?"),
        (
            "train digits --seed 1",
            "a setting has no dashes: data.seed=VALUE or trainer.seed=VALUE",
        ),
        ("train digits --trainer.seed=3", "a setting has no dashes: trainer.seed=3"),
        ("train digits --batch-size=3", "a setting has no dashes: trainer.batch_size=3"),
        ("show digit", "did you mean digits?"),
        ("eval data.root=x", "eval needs a run directory"),
        ("eval a b --predictions x.csv", "name one run"),
    ],
)
def test_what_was_meant(command: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(command.split())
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert meant in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"ffds {versions()['ffds']}\n"


@pytest.fixture
def two_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    tiny.use(monkeypatch)
    short = {"schedule.epochs": 1, "trainer.batch_size": 32, "model.name": "resnet20"}
    given = {"out": tmp_path, "overrides": short, "shown": False}
    return [str(ffds.train("digits", method="ce", seed=seed, **given).path) for seed in (0, 1)]


def test_quiet_before_or_behind_the_verb_leaves_results_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.use(monkeypatch)
    train = [
        "train",
        "digits",
        "schedule.epochs=1",
        "model.name=resnet20",
        "method=ce",
        "--out",
        str(tmp_path),
    ]
    assert main([*train, "-q"]) == 0
    done = capsys.readouterr()
    assert (done.err, "accuracy" in done.out) == ("", True)
    assert main(["--quiet", *train, "trainer.seed=1"]) == 0
    assert capsys.readouterr().err == ""
    assert QUIET not in os.environ
    assert main([*train, "trainer.seed=2"]) == 0
    assert "epoch 1/1" in capsys.readouterr().err


def test_several_runs_are_scored_and_a_broken_one_does_not_hide_them(
    two_runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", *two_runs, "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    for path, one in zip(two_runs, scores, strict=True):
        summary = json.loads((Path(path) / "summary.json").read_text())
        assert (one["run"], one["accuracy"]) == (path, summary["accuracy"]["last"])
        assert len(one["class_names"]) == len(one["per_class"]) == 10
    assert main(["eval", two_runs[0], "nowhere", "data.in_memory=true", "--json", two_runs[1]]) == 2
    found = capsys.readouterr()
    assert [one.get("accuracy") is None for one in json.loads(found.out)] == [False, True, False]
    assert found.err.startswith("error: nowhere: not a run directory")


def test_a_table_says_what_its_groups_are(two_runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", two_runs[0]]) == 0
    one = capsys.readouterr().out
    assert "head, middle, tail: the classes in three parts" in one
    assert "fewer than 20 training images" in one
    assert main(["eval", *two_runs]) == 0
    several = capsys.readouterr().out
    assert "head, middle, tail: the classes in three parts" in several
    assert "fewer than 20" not in several
