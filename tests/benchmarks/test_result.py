from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.__main__ import main
from benchmarks.result import Result
from benchmarks.timing import Pairs, alternate

REQUIRED = {"name", "ours", "yardstick", "ratio", "target", "unit", "hardware", "versions", "commit"}


def test_a_written_result_holds_every_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "deep" / "bench.json"
    main(["--quick", "--only", "augmentation", "memory", "--out", str(file)])
    entries = json.loads(file.read_text(encoding="utf-8"))
    assert ["augmentation" in entries[0]["name"], "memory" in entries[1]["name"]] == [True, True]
    for entry in entries:
        assert entry.keys() >= REQUIRED
        assert entry["ours"] > 0
        assert entry["yardstick"] > 0
        assert {"python", "torch", "torchvision", "pillow"} <= entry["versions"].keys()
    assert "synthetic" in entries[0]["name"]
    assert "augmentation" in capsys.readouterr().out


def test_what_is_not_measured_again_stays(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    older = Result("another benchmark", "", "ms", 1.0).entry() | {
        "commit": "older",
        "hardware": "a machine",
        "versions": {"torch": "2.10"},
    }
    file.write_text(json.dumps([older]), encoding="utf-8")
    for _ in range(2):
        main(["--quick", "--only", "memory", "--out", str(file)])
    kept, *measured = json.loads(file.read_text(encoding="utf-8"))
    assert kept == older
    names = [entry["name"] for entry in measured]
    assert len(names) == len(set(names)) > 0


@pytest.mark.parametrize(
    ("better", "target", "ratio", "met"),
    [
        ("higher", 2.0, 2.0, True),
        ("higher", 2.1, 2.0, False),
        ("lower", 0.5, 0.5, True),
        ("lower", 0.4, 0.5, False),
    ],
)
def test_the_target_is_a_bound_on_the_right_side(better: str, target: float, ratio: float, met: bool) -> None:
    pairs = Pairs((1.0, 3.0, 2.0), (4.0, 4.0, 3.0))
    result = Result.of("x", pairs, against="y", unit="s", better=better, target=target)
    assert (result.ours, result.yardstick, result.ratio, result.met, result.pairs) == (
        2.0,
        4.0,
        ratio,
        met,
        3,
    )
    spread = (4 / 3, 4.0) if better == "higher" else (0.25, 0.75)
    assert (result.min, result.max) == pytest.approx(spread)


def test_a_result_without_target_is_not_judged() -> None:
    assert Result("x", "", "s", 1.0).met is None


def test_sides_take_turns() -> None:
    turns = []

    def side(name: str, seconds: float) -> float:
        turns.append(name)
        return seconds

    found = alternate(lambda: side("ours", 1.0), lambda: side("yardstick", 2.0), 3)
    assert turns == ["ours", "yardstick"] * 3
    assert found == Pairs((1.0,) * 3, (2.0,) * 3)
    assert found.scaled(10).medians == (10.0, 20.0)
