from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from benchmarks.__main__ import main
from benchmarks.photos import photo_folder


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_the_photographs_are_the_same_everywhere_and_written_once(temporary: Path) -> None:
    root = photo_folder(30)
    files = sorted(root.glob("train/*/*.jpg"))
    assert (len(files), len(list(root.glob("test/*/*.jpg")))) == (30, 10)
    contents = [file.read_bytes() for file in files]
    assert len(set(contents)) == 30
    before = root.stat().st_mtime_ns
    assert photo_folder(30) == root
    assert root.stat().st_mtime_ns == before
    root.rename(temporary / "first")
    again = sorted(photo_folder(30).glob("train/*/*.jpg"))
    assert [file.read_bytes() for file in again] == contents


def test_both_sides_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick", "--only", "loading", "--pairs", "1", "--out", str(tmp_path / "bench.json")])
    told = capsys.readouterr().out
    assert "40 JPEGs at 224 pixels" in told
    assert "images/s" in told
