"""The verb sweep, as a user types it; runs train by formula."""

import json

import pytest

from ffds.cli import main
from ffds.errors import InputError
from ffds.recipes.load import load_recipe
from tests.sweep import made

COMMAND = ["sweep", "digits", *made.SETTINGS]


def test_the_end_of_a_sweep(tmp_path, monkeypatch, capsys):
    made.use(monkeypatch)
    assert main([*COMMAND, "--trials", "12", "--study", "mine", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    place = tmp_path / "digits" / "sweep"
    assert "12 trials: " in shown.out
    assert "the test set was not used" in shown.out
    assert "γ min" in shown.out
    assert shown.err.startswith("sweep of digits d-ffds: 12 of 12 trials to train")
    written = [line.removeprefix("written: ") for line in shown.out.splitlines() if "written" in line]
    figures = [f"{place}/mine-{name}.svg, .pdf, .png, .csv" for name in ("k", "groups")]
    assert [line for line in written if "importance" not in line] == [f"{place}/mine-best.yaml", *figures]
    files = {"mine.log", "mine-best.yaml", "mine-k.svg", "mine-k.pdf", "mine-k.png", "mine-k.csv"}
    assert files <= {path.name for path in place.iterdir()}
    load_recipe(written[0])


def test_json(tmp_path, monkeypatch, capsys):
    made.use(monkeypatch)
    assert main([*COMMAND, "--trials", "3", "--out", str(tmp_path), "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert len(records["trials"]) == 3
    assert records["best"]["score"] == max(one["score"] for one in records["trials"])
    assert records["files"][0] == records["best"]["recipe"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["method=ce"], ["searches the settings of FFDS", "method=d-ffds, method=ffds"]),
        (["--study", "a/b"], ["name of a study"]),
        (["--storage", "nonsense"], ["storage cannot be opened", "postgresql+psycopg://HOST/DATABASE"]),
        (["trainer.devices=2"], ["each trial on one device", "--devices"]),
    ],
)
def test_bad_input_ends_with_2(arguments, words, tmp_path, monkeypatch, capsys):
    made.use(monkeypatch)
    assert main(["sweep", "digits", "--out", str(tmp_path), *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert all(word in message for word in words)


def test_when_every_trial_fails(tmp_path, monkeypatch, capsys):
    made.use(monkeypatch, made.Trainer(diverges=lambda recipe, epoch: epoch == 6))
    assert main([*COMMAND, "--trials", "2", "--out", str(tmp_path)]) == 3
    shown = capsys.readouterr()
    assert "failed: trial 1: loss is not finite in epoch 6" in shown.out
    assert "no trial finished, 2 failed: loss is not finite in epoch 6" in shown.err
    assert "written" not in shown.out


def test_when_trials_are_unfinished(tmp_path, monkeypatch, capsys):
    def stopped(recipe, epoch):
        if epoch == 6:
            raise InputError("a file of the run is damaged", where="here")

    made.use(monkeypatch, made.Trainer(diverges=stopped))
    assert main([*COMMAND, "--trials", "2", "--out", str(tmp_path)]) == 2
    shown = capsys.readouterr()
    assert "unfinished: trial 1: a file of the run is damaged where: here" in shown.out
    assert "2 of 2 trials are unfinished" in shown.err
    assert "the same command tries them again" in shown.err
    made.use(monkeypatch)
    assert main([*COMMAND, "--trials", "2", "--out", str(tmp_path)]) == 0
