"""The verbs about data: what a recipe holds, packs of it, and the cache of decoded images."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ffds.cli import main
from ffds.data import long_tail_counts, open_dataset
from ffds.recipes import load_recipe
from tests.data.pictures import write_folder

TRAIN = sum(long_tail_counts(124, 10, 2))


@pytest.fixture
def pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A pack of the digits at imbalance factor 2 that was opened once, with an empty cache."""
    monkeypatch.setenv("FFDS_CACHE", str(tmp_path / "cache"))
    directory = tmp_path / "pack"
    settings = ["data.name=parquet", f"data.root={directory}"]
    assert main(["data", "pack", "digits", str(directory), "data.imbalance_factor=2"]) == 0
    open_dataset(load_recipe("digits", [*settings, "data.imbalance_factor=null"]).recipe.data)
    capsys.readouterr()
    return directory


def info(capsys: pytest.CaptureFixture[str], *settings: str) -> dict[str, Any]:
    assert main(["data", "info", "digits", *settings, "--json"]) == 0
    facts: dict[str, Any] = json.loads(capsys.readouterr().out)
    return facts


def test_a_pack_holds_the_same_images_and_is_not_overwritten(
    pack: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(list(pack.glob("*.parquet"))) == 2
    assert main(["data", "pack", "digits", str(pack)]) == 2
    packed = info(capsys, "data.name=parquet", f"data.root={pack}", "data.imbalance_factor=null")
    counts = packed["class_counts"]
    assert counts == info(capsys, "data.imbalance_factor=2")["class_counts"]
    assert (packed["train_images"], packed["test_images"]) == (sum(counts), 500)
    assert packed["imbalance_factor"] == max(counts) / min(counts)


def test_the_cache_is_listed_and_emptied(pack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "cache", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    kept, entries = Path(listed["directory"]), listed["entries"]
    assert kept == pack.parent / "cache" / "images"
    assert sorted(one["shape"] for one in entries) == [[500, 8, 8, 1], [TRAIN, 8, 8, 1]]
    assert {one["images_of"] for one in entries} == {str(pack)}
    size = sum(file.stat().st_size for file in kept.iterdir())
    assert sum(one["bytes"] for one in entries) == size > (TRAIN + 500) * 64
    assert main(["data", "cache"]) == 0
    assert "500x8x8x1" in capsys.readouterr().out
    assert main(["data", "cache", "--clear"]) == 0
    assert capsys.readouterr().out == f"0.1 MiB removed from {kept}\n"
    assert list(kept.iterdir()) == []
    assert main(["data", "cache", "--clear", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"directory": str(kept), "freed_bytes": 0}


def test_damaged_entries_and_those_that_cannot_be_removed_are_named(
    pack: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = pack.parent / "cache" / "images"
    for file in kept.glob("*.npz"):
        os.truncate(file, 100)
    assert main(["data", "cache"]) == 0
    assert capsys.readouterr().out.count("a damaged file") == 2
    (kept / "of-another-program.npz").mkdir()
    assert main(["data", "cache", "--clear"]) == 2
    assert "of-another-program.npz" in capsys.readouterr().err


@pytest.mark.parametrize("in_memory", ["true", "false"])
def test_names_that_are_not_utf_8_are_trained_on_and_reported(
    in_memory: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As old zip files leave them: of images, of classes, of files that are no images, of damaged ones."""
    name = os.fsdecode(b"caf\xe9")
    root = write_folder(tmp_path / "photos", {"a": 3, name: 3}, {"a": 2, name: 2})
    (root / "train" / "a" / "000.jpg").rename(root / "train" / "a" / f"{name}.jpg")
    (root / "train" / "a" / f"{name}.png").write_bytes(b"damaged")
    (root / "train" / "a" / f"{name}.heic").write_bytes(b"another kind")
    settings = ["own-folder", f"data.root={root}", "data.image_size=8", "data.eval_resize=8"]
    settings += ["data.on_bad_image=skip", f"data.in_memory={in_memory}", "data.workers=0"]
    settings += [
        "method=ce",
        "model.name=resnet20",
        "model.pretrained=false",
        "schedule.epochs=1",
        "trainer.batch_size=4",
    ]
    assert main(["data", "info", *settings, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["class_names"] == ["a", name]
    assert facts["class_counts"] == [3, 3]
    assert f"{name}.png" in facts["skipped"][0]
    assert facts["notes"][0].endswith(f"{name}.heic")
    assert main(["train", *settings, "--out", str(tmp_path / "runs")]) == 0
    (run,) = (path.parent for path in tmp_path.rglob("summary.json"))
    assert main(["eval", str(run)]) == 0
    assert main(["data", "info", *settings[:4]]) == 0
    assert r"caf\udce9.png" in capsys.readouterr().out
    assert main(["data", "pack", "own-folder", str(tmp_path / "pack"), *settings[1:5]]) == 0


def test_data_with_a_validation_set_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is scored after each epoch, and what is not used is named."""
    monkeypatch.setenv("FFDS_CACHE", str(tmp_path / "cache"))
    root = write_folder(tmp_path / "images", {"a": 4, "b": 3}, {"a": 1, "b": 2})
    (root / "test").rename(root / "Dev")
    write_folder(root, {}, {"a": 2, "b": 2})
    (root / "unlabeled").mkdir()
    settings = ["own-folder", f"data.root={root}", "data.image_size=8", "data.eval_resize=8", "method=ce"]
    settings += ["model.name=resnet20", "model.pretrained=false", "schedule.epochs=1"]
    assert main(["data", "info", *settings, "--json"]) == 0
    out, err = capsys.readouterr()
    facts = json.loads(out)
    assert [facts[f"{split}_images"] for split in ("train", "validation", "test")] == [7, 3, 4]
    assert facts["notes"] == [f"in {root} the following is not used: unlabeled/"]
    assert err == f"note: {facts['notes'][0]}\n"
    assert main(["train", *settings, "--out", str(tmp_path / "runs")]) == 0
    (metrics,) = tmp_path.rglob("metrics.jsonl")
    scores = json.loads(metrics.read_text())["validation"]
    assert all(score is not None for score in scores["per_class"])
    assert main(["eval", str(metrics.parent)]) == 0
