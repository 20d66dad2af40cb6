"""The scripts beside ``python -m benchmarks``, with tiny sizes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from benchmarks.step import useful_flops
from torch import nn

from benchmarks import scaling, step_parts


def test_scaling_measures_every_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "scaling.json"
    scaling.main(["--quick", "--out", str(file)])
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found.keys() == scaling.TITLES.keys()
    printed = capsys.readouterr().out
    for part, measured in found.items():
        points = [scaling.Point(**point) for point in measured["points"]]
        assert {point.part for point in points} == {part}
        assert all(point.seconds > 0 for point in points)
        assert scaling.scaling_table(points, part) in printed
    scaling.main(["--quick", "--only", "images", "--out", str(file)])
    again = json.loads(file.read_text(encoding="utf-8"))
    assert again.keys() == found.keys()
    assert [part for part in found if again[part] != found[part]] == ["images"]


def test_a_scaling_table_has_a_row_for_each_size() -> None:
    points = [scaling.Point("batch", "ms an image", size, size / 1000) for size in (8, 1024)]
    assert scaling.scaling_table(points, "batch").splitlines()[2:] == ["| 8 | 8 |", "| 1,024 | 1.02e+03 |"]


def test_parts_of_a_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "parts.json"
    step_parts.main(["--quick", "--out", str(file)])
    found = [step_parts.Share(**share) for share in json.loads(file.read_text(encoding="utf-8"))["shares"]]
    assert step_parts.parts_table(found) in capsys.readouterr().out
    for kind in {share.step for share in found}:
        of = {share.part: share.seconds for share in found if share.step == kind}
        assert of["convolutions"] > of["optimizer"] > 0
        assert of["batch norm"] > 0


def test_useful_flops_are_three_products_a_layer() -> None:
    """Forward, gradient of the weight, gradient of the input; 2 for a product and its sum."""
    layers = nn.Sequential(nn.Linear(5, 7, bias=False), nn.ReLU(), nn.Linear(7, 3, bias=False))
    images = torch.randn(11, 5)
    # Nobody asks for the gradient of the images.
    assert useful_flops(layers, images) == 2 * 11 * (2 * 5 * 7 + 3 * 7 * 3)
