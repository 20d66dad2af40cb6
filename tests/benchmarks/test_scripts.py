"""The scripts beside ``python -m benchmarks``, with tiny sizes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from benchmarks.step import useful_flops
from torch import nn

from benchmarks import gpu, methods, scaling, step_parts


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


def test_methods_beside_cross_entropy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "costs.json"
    for only in ("fl", "d-ffds"):
        methods.main(["--quick", "--only", only, "--out", str(file)])
    found = json.loads(file.read_text(encoding="utf-8"))
    assert list(found) == ["hardware", "torch", "commit", "command", "step_beside_ce"]
    assert list(found["step_beside_ce"]) == ["fl", "d-ffds"]
    assert all(ratio > 0 for ratio in found["step_beside_ce"].values())
    assert "fl: " in capsys.readouterr().out


def test_parts_of_a_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "parts.json"
    step_parts.main(["--quick", "--out", str(file)])
    shares = [step_parts.Share(**share) for share in json.loads(file.read_text(encoding="utf-8"))["shares"]]
    assert step_parts.parts_table(shares) in capsys.readouterr().out
    for kind in {share.step for share in shares}:
        seconds = {share.part: share.seconds for share in shares if share.step == kind}
        assert seconds["convolutions"] > seconds["optimizer"] > 0
        assert seconds["batch norm"] > 0


def test_what_is_measured_on_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every part but the one that trains all methods, on whatever device there is."""
    file, parts = tmp_path / "speed.json", ["throughput", "losses", "kernels", "runs"]
    for only in (parts[:2], parts[2:]):
        gpu.main(["--quick", "--only", *only, "--out", str(file), "--runs", str(tmp_path / "runs")])
    found = json.loads(file.read_text(encoding="utf-8"))
    assert list(found) == parts
    assert file.with_suffix(".md").read_text(encoding="utf-8") == gpu.page(found)
    figures = {part: [gpu.Figure(**figure) for figure in found[part]["figures"]] for part in parts}
    rates = figures["throughput"]
    assert all(0 < (figure.low or 0) <= figure.value <= (figure.high or 0) for figure in rates)
    accuracies = {figure.row: figure.value for figure in figures["runs"] if figure.column == "accuracy"}
    (run,) = (tmp_path / "runs" / "D-FFDS-first").glob("*/*/*/summary.json")
    assert accuracies["D-FFDS, first"] == json.loads(run.read_text(encoding="utf-8"))["accuracy"]["last"]
    assert "throughput: eager: bf16, 32: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kernel", "part"),
    [
        ("triton_poi_fused_convolution_backward_native_batch_norm_backward_30", "fused kernels"),
        ("void at::native::batch_norm_collect_statistics_channels_last_kernel<>", "batch norm"),
        ("sm80_xmma_wgrad_implicit_gemm_indexed_tf32f32_tf32f32_f32_nhwckrsc_nhwc", "convolutions"),
        ("void pointwise_mult_and_sum_complex<float2, 8, 4>(float2*)", "convolutions"),
        ("void at::native::multi_tensor_apply_kernel<FusedSgdMathFunctor>", "optimizer"),
        ("Memset (Device)", "copies"),
        ("void at::native::vectorized_elementwise_kernel<CUDAFunctor_add<float>>", "the rest"),
    ],
)
def test_parts_of_a_step_on_a_gpu(kernel: str, part: str) -> None:
    """Names as torch's profiler gave them on an H200."""
    assert gpu.part_of_step(kernel) == part


def test_useful_flops_are_three_products_a_layer() -> None:
    """Forward, gradient of the weight, gradient of the input; 2 for a product and its sum."""
    layers = nn.Sequential(nn.Linear(5, 7, bias=False), nn.ReLU(), nn.Linear(7, 3, bias=False))
    images = torch.randn(11, 5)
    # Nobody asks for the gradient of the images.
    assert useful_flops(layers, images) == 2 * 11 * (2 * 5 * 7 + 3 * 7 * 3)
