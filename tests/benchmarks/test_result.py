from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks.__main__ import main
from benchmarks.result import Result
from benchmarks.timing import Pairs, alternate

from ffds.environment import hardware

REQUIRED = {"name", "ours", "yardstick", "ratio", "target", "unit", "hardware", "versions", "commit"}


def test_a_written_result_holds_every_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "deep" / "bench.json"
    main(["--quick", "--only", "augmentation", "memory", "--out", str(file)])
    entries = json.loads(file.read_text(encoding="utf-8"))
    assert ["augmentation" in entries[0]["name"], "memory" in entries[-1]["name"]] == [True, True]
    for entry in entries:
        assert entry.keys() >= REQUIRED
        assert entry["ours"] > 0
        assert entry["yardstick"] > 0
        assert {"python", "torch", "torchvision", "pillow"} <= entry["versions"].keys()
    assert "synthetic" in entries[0]["name"]
    assert "augmentation" in capsys.readouterr().out


def entry(name: str, machine: str) -> dict[str, Any]:
    provenance = {"commit": "older", "hardware": machine, "versions": {"torch": "2.10"}}
    return Result(name, "", "ms", 1.0).entry() | provenance


def test_what_is_not_measured_again_stays(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    main(["--quick", "--only", "memory", "--out", str(file)])
    here, *more = json.loads(file.read_text(encoding="utf-8"))
    older = [here | {"hardware": "another machine", "ours": 1.0}, entry("another benchmark", hardware())]
    file.write_text(json.dumps([*older, here, *more]), encoding="utf-8")
    main(["--quick", "--only", "memory", "--out", str(file)])
    first, second, *measured = json.loads(file.read_text(encoding="utf-8"))
    assert [first, second] == older
    assert [one["name"] for one in measured] == [one["name"] for one in (here, *more)]
    assert {one["hardware"] for one in measured} == {hardware()}
    assert "\n## another machine\n" in file.with_suffix(".md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("better", "ratio", "missed", "spread"),
    [("higher", 2.0, 2.1, (4 / 3, 4.0)), ("lower", 0.5, 0.4, (0.25, 0.75))],
)
def test_the_target_is_a_bound_on_the_right_side(
    better: str, ratio: float, missed: float, spread: tuple[float, float]
) -> None:
    pairs = Pairs((1.0, 3.0, 2.0), (4.0, 4.0, 3.0))
    for target, met in ((ratio, True), (missed, False)):
        result = Result.of("x", pairs, against="y", unit="s", better=better, target=target)
        assert (result.ours, result.yardstick, result.ratio, result.pairs) == (2.0, 4.0, ratio, 3)
        assert (result.min, result.max) == pytest.approx(spread)
        assert result.met == met
    assert Result("x", "", "s", 1.0).met is None


def test_sides_take_turns() -> None:
    turns = iter(range(6))
    pairs = alternate(lambda: next(turns), lambda: next(turns), 3)
    assert pairs == Pairs((0, 2, 4), (1, 3, 5))
    assert pairs.scaled(10).medians == (20, 30)
