"""Writes a trained network as ONNX, for torch.export or in timm's layout, and checks it at once."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ffds.errors import InputError
from ffds.files import make_directory, saving, write_bytes
from ffds.inference.graph import INPUT, OUTPUTS, ExportedNetwork, described, example_images
from ffds.inference.load import scored_images
from ffds.inference.predictor import Predictor, load
from ffds.inference.timm_folder import timm_folder
from ffds.run_directory import Run

__all__ = ["FORMATS", "Exported", "Format", "export_run"]

Format = Literal["onnx", "torch", "timm"]
FORMATS: dict[Format, str] = {"onnx": "model.onnx", "torch": "model.pt2", "timm": "timm"}
"""Each format with the name of its file in the run directory."""
CHECKED = 500
"""Test images that a file is checked on, at even distances."""
BATCH = 64
TOLERANCE = 1e-3
"""Of probabilities; a tie within it may be broken either way."""

Call = Callable[[Tensor], Tensor]
"""Images as the file takes them → probabilities (N, classes)."""


class Exported(NamedTuple):
    """The file, what it was checked on, how many images, and the largest difference of a probability."""

    path: Path
    checked_on: str
    images: int
    difference: float


def export_run(
    run: Run,
    form: Format,
    out: str | Path | None = None,
    *,
    preprocess: bool = False,
    opset: int | None = None,
    adjust: bool = True,
) -> Exported:
    """Export the network of a run, after a check that the file gives the same labels and probabilities.

    Args:
        run: finished or not.
        form: ``onnx`` (dynamic batch), ``torch`` (.pt2 of `torch.export`) or ``timm`` (a folder that
            ``timm.create_model("local-dir:PATH", pretrained=True)`` reads).
        out: the file, or for timm the folder; None: in the run directory.
        preprocess: whether images are uint8 (N, S, S, C), resized and normalised in the graph.
        opset: of ONNX; None takes the exporter's.
        adjust: whether what `ffds adjust` saved beside the run is a part of it.

    Raises:
        InputError: `out` exists, the network does not export in this format, or the check failed; then
            nothing is written.
    """
    path = Path(out) if out is not None else run.path / FORMATS[form]
    if path.exists() or path.is_symlink():
        raise InputError("there is a file already", where=path, fix="remove it, or name another: --out PATH")
    if form == "timm" and preprocess:
        what, fix = "timm's layout has no place for preprocessing", "use --format onnx or --format torch"
        raise InputError(what, fix=fix)
    predictor = load(run, device="cpu", adjust=adjust)
    images, checked_on = _images(predictor)
    make_directory(path.absolute().parent, "the export", "--out PATH")
    if form == "timm":
        return _timm(predictor, path, images, checked_on)
    network = ExportedNetwork(predictor, preprocess=preprocess).eval()
    prepare = (lambda stored: stored) if preprocess else predictor.preprocess
    example = prepare(example_images(predictor, 2)).contiguous()
    about = described(predictor, preprocess=preprocess)
    content, call = (
        _onnx(network, example, about, opset) if form == "onnx" else _torch(network, example, about)
    )
    difference = _check(predictor, images, lambda stored: call(prepare(stored)))
    write_bytes(path, content)
    return Exported(path, checked_on, len(images), difference)


def _images(predictor: Predictor) -> tuple[Tensor, str]:
    """Stored images uint8 (N, S, S, C): the run's own test images, or random ones, and which they are."""
    with suppress(InputError):
        *_, split = scored_images(predictor.run)
        places = np.unique(np.linspace(0, len(split) - 1, min(CHECKED, len(split))).astype(np.int64))
        return torch.from_numpy(np.ascontiguousarray(split.take(places).images[:])), "test images"
    return example_images(predictor, BATCH + 1), "random images, as the run's own are not there"


def _onnx(
    network: ExportedNetwork, example: Tensor, about: dict[str, str], opset: int | None
) -> tuple[bytes, Call]:
    import onnx
    import onnxruntime
    import onnxscript  # noqa: F401  (the exporter needs it)

    with _exporting("onnx"):
        program: Any = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
            opset_version=opset,
            verbose=False,
        )
        model = program.model_proto
    onnx.helper.set_model_props(model, about)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def call(images: Tensor) -> Tensor:
        _, probabilities = session.run(list(OUTPUTS), {INPUT: images.contiguous().numpy()})
        return torch.from_numpy(np.asarray(probabilities))

    return content, call


def _torch(network: ExportedNetwork, example: Tensor, about: dict[str, str]) -> tuple[bytes, Call]:
    with _exporting("torch"):
        shapes = {INPUT: {0: torch.export.Dim("batch")}}
        program = torch.export.export(network, (example,), dynamic_shapes=shapes)
        file = BytesIO()
        torch.export.save(program, file, extra_files={"ffds.json": json.dumps(about)})
        content = file.getvalue()
        loaded = torch.export.load(BytesIO(content)).module()

    def call(images: Tensor) -> Tensor:
        _, probabilities = loaded(images.contiguous())
        found: Tensor = probabilities
        return found

    return content, call


@contextmanager
def _exporting(form: str) -> Iterator[None]:
    """Silence the exporter's warnings about itself, and name the format where it fails."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ModuleNotFoundError:
        raise
    except Exception as error:  # the exporters raise nearly anything
        what, got = "this network does not export", (str(error).strip() or repr(error)).splitlines()[0]
        others = ", ".join(other for other in FORMATS if other != form)
        raise InputError(what, where=f"--format {form}", got=got, fix=f"try another: {others}") from error


def _timm(predictor: Predictor, path: Path, images: Tensor, checked_on: str) -> Exported:
    """The folder, made aside, read by timm and checked before it gets its name."""
    import timm

    with (
        saving(path.name, path.parent, 0),
        TemporaryDirectory(".tmp", f".{path.name}.", path.parent) as aside,
    ):
        folder = Path(aside) / "timm"
        timm_folder(predictor, folder)
        network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        difference = _check(
            predictor, images, lambda stored: network(predictor.preprocess(stored)).softmax(1)
        )
        shutil.move(folder, path)
    return Exported(path, checked_on, len(images), difference)


def _check(predictor: Predictor, images: Tensor, call: Call) -> float:
    """The largest difference of a probability; InputError where a label differs or it is too large."""
    largest = 0.0
    # A batch of one image too: the file takes any number.
    for batch in (images[:1], *torch.split(images, BATCH)):
        with torch.inference_mode():
            expected = predictor.scored(predictor.preprocess(batch)).float().softmax(1)
            got = call(batch)
        difference = (got - expected).abs().nan_to_num(float("inf")).max().item()
        largest = max(largest, difference)
        first, second = expected.topk(2).values.unbind(1)
        differing = (got.argmax(1) != expected.argmax(1)) & (first - second > TOLERANCE)
        if largest > TOLERANCE or bool(differing.any()):
            what, found = "the exported network does not do what the run does", f"{largest:.2g}"
            allowed = f"the same labels, and probabilities that differ by at most {TOLERANCE}"
            raise InputError(what, got=found, allowed=allowed, fix="try another --format")
    return largest
