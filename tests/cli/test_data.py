"""The verbs about data: what a recipe holds, packs of it, and the cache of decoded images."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ffds.cli import main
from ffds.data import long_tail_counts

TRAIN = sum(long_tail_counts(124, 10, 2))


@pytest.fixture
def pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A pack of the digits at imbalance factor 2 that was opened once, with an empty cache."""
    monkeypatch.setenv("FFDS_CACHE", str(tmp_path / "cache"))
    directory = tmp_path / "pack"
    settings = ["data.name=parquet", f"data.root={directory}"]
    assert main(["data", "pack", "digits", str(directory), "data.imbalance_factor=2"]) == 0
    assert main(["data", "info", "digits", *settings, "data.imbalance_factor=null"]) == 0
    capsys.readouterr()
    return directory


def info(capsys: pytest.CaptureFixture[str], *settings: str) -> dict[str, Any]:
    assert main(["data", "info", "digits", *settings, "--json"]) == 0
    facts: dict[str, Any] = json.loads(capsys.readouterr().out)
    return facts


def test_info_tells_the_counts(capsys: pytest.CaptureFixture[str]) -> None:
    facts = info(capsys)
    assert facts["train_images"] == sum(facts["class_counts"])
    assert facts["test_images"] == 500
    assert facts["imbalance_factor"] == max(facts["class_counts"]) / min(facts["class_counts"])


def test_a_pack_holds_the_same_images_and_is_not_overwritten(
    pack: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(list(pack.glob("*.parquet"))) == 2
    assert main(["data", "pack", "digits", str(pack)]) == 2
    packed = info(capsys, "data.name=parquet", f"data.root={pack}", "data.imbalance_factor=null")
    assert packed["class_counts"] == info(capsys, "data.imbalance_factor=2")["class_counts"]


def test_the_cache_is_listed_and_emptied(pack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "cache", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    kept = Path(found["directory"])
    assert kept == pack.parent / "cache" / "images"
    assert sorted(one["shape"] for one in found["entries"]) == [[500, 8, 8, 1], [TRAIN, 8, 8, 1]]
    assert {one["images_of"] for one in found["entries"]} == {str(pack)}
    size = sum(file.stat().st_size for file in kept.iterdir())
    assert sum(one["bytes"] for one in found["entries"]) == size > (TRAIN + 500) * 64
    assert main(["data", "cache"]) == 0
    assert "500x8x8x1" in capsys.readouterr().out
    assert main(["data", "cache", "--clear"]) == 0
    assert capsys.readouterr().out == f"0.1 MiB removed from {kept}\n"
    assert list(kept.iterdir()) == []
    assert main(["data", "cache", "--clear", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"directory": str(kept), "freed_bytes": 0}


def test_a_damaged_entry_is_listed_as_such(pack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (pack.parent / "cache" / "images").glob("*.npz"):
        os.truncate(file, 100)
    assert main(["data", "cache"]) == 0
    assert capsys.readouterr().out.count("a damaged file") == 2


def test_what_cannot_be_removed_is_named(
    pack: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (pack.parent / "cache" / "images" / "of-another-program.npz").mkdir()
    assert main(["data", "cache", "--clear"]) == 2
    assert "of-another-program.npz" in capsys.readouterr().err
