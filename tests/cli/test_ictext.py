"""ICText-LT as a user types it, on rendered chips with small counts."""

import json
from functools import partial
from pathlib import Path

import pytest

from ffds.cli import main
from ffds.data.sources.ictext import cut, render
from ffds.data.sources.ictext.layout import CHARACTERS, Sizes
from ffds.data.sources.ictext.render import write_parent

COUNTS = tuple(int(100 * 100 ** (-i / 35)) for i in range(36))
SMALL = Sizes(natural=COUNTS, head=100, test=1)
TINY = Sizes(natural=(3, *[2] * 34, 1), head=100, test=1)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cut, "cut_ictext_lt", partial(cut.cut_ictext_lt, sizes=SMALL))
    monkeypatch.setattr(render, "rendered_sample", partial(render.rendered_sample, sizes=TINY))


@pytest.fixture
def parent(tmp_path: Path) -> list[str]:
    """The arguments that name rendered chips: one more of each character than is needed."""
    counts = dict(zip(CHARACTERS, [count + 1 for count in COUNTS], strict=True))
    write_parent(tmp_path, "train", counts, seed=0)
    write_parent(tmp_path, "test", dict.fromkeys(CHARACTERS, 2), seed=0)
    return [part for split in ("train", "test") for part in (f"--{split}", *places(tmp_path / split))]


def places(images: Path) -> tuple[str, str]:
    return f"{images}.json", str(images)


def test_ictext_lt_is_cut_and_read(
    parent: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "ictext", *parent, str(tmp_path / "data")]) == 0
    natural, tail = (tmp_path / "data" / f"ictext-lt-{factor}" for factor in (18, 100))
    assert capsys.readouterr().out.splitlines() == [str(natural), str(tail)]
    for recipe, root in (("ictext-lt-18", tmp_path / "data"), ("ictext-lt-100", tail)):
        overrides = [f"data.root={root}", "data.imbalance_factor=null", "--json"]
        assert main(["data", "info", recipe, *overrides]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["class_counts"] == list(COUNTS)
        assert facts["test_images"] == 36
        assert facts["source"].startswith("rendered sample, not ICText: ")
    assert main(["data", "ictext", *parent, str(tmp_path / "data")]) == 2
    assert "never overwritten" in capsys.readouterr().err


def test_seed_and_ignored(parent: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "train.json"
    content = json.loads(file.read_text())
    for annotation in content["annotations"]:
        annotation["ignore"] = int(annotation["category_id"] == 6)
    file.write_text(json.dumps(content))
    arguments = ["data", "ictext", *parent, str(tmp_path / "data"), "--seed", "3"]
    assert main(arguments) == 2
    assert "A 0 of 45" in capsys.readouterr().err
    assert main([*arguments, "--keep-ignored"]) == 0
    readme = (tmp_path / "data" / "ictext-lt-18" / "README.md").read_text()
    assert "seed 3, characters marked `ignore` taken too" in readme


def test_seeds_and_annotations_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = places(tmp_path / "gone")
    arguments = ["data", "ictext", "--train", *gone, "--test", *gone, str(tmp_path / "data")]
    assert main(arguments) == 2
    assert "gone.json" in capsys.readouterr().err
    for seed in ("-1", "4294967296", "x"):
        with pytest.raises(SystemExit, match="2"):
            main([*arguments, "--seed", seed])
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_trains_on_the_rendered_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = [
        *("data.name=ictext-sample", f"data.root={tmp_path / 'data'}", "name=ictext-sample-lt"),
        *("data.imbalance_factor=null", "schedule.epochs=2", "model.name=resnet20", "trainer.eval_every=2"),
    ]
    assert main(["train", "ictext-lt-18", *overrides, "--out", str(tmp_path / "runs"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["recipe"], summary["method"], summary["epochs"]) == ("ictext-sample-lt", "d-ffds", 2)
    assert 0 <= summary["tail"] <= 100
