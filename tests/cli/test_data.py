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
