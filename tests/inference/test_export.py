"""Exported files do what the run does, wherever they are read."""

import json
import re
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

import ffds
from ffds.cli import main
from ffds.data.decode import decode
from ffds.errors import InputError
from ffds.inference.export import export_run
from ffds.inference.fitting import adjust_run
from tests.data.pictures import write_folder
from tests.inference.test_predictor import CLASSES, files_of, trained_on
from tests.training import tiny


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    many = dict.fromkeys(CLASSES, 6)
    return write_folder(tmp_path_factory.mktemp("photos"), many, dict.fromkeys(CLASSES, 3))


@pytest.fixture(scope="module")
def timm_run(photos, tmp_path_factory):
    """With an adjustment, so that every format has to carry it."""
    name = {"model.name": "timm/test_resnet", "data.validation": 0.3, "data.interpolation": "bicubic"}
    run = trained_on(photos, tmp_path_factory.mktemp("runs"), **name)
    adjust_run(run, tau=0.5, prior="uniform")
    return run


@pytest.fixture(scope="module")
def exported(timm_run, tmp_path_factory):
    """Paths of the run in every format."""
    base = tmp_path_factory.mktemp("exported")
    made = {}
    for form, name in {"onnx": "model.onnx", "torch": "model.pt2", "timm": "folder"}.items():
        found = export_run(timm_run, form, base / name, preprocess=form != "timm")
        assert (found.checked_on, found.images) == ("test images", 9)
        made[form] = found.path
    return made


def stored(predictor, files):
    return np.stack([decode(file, predictor.stored) for file in files])


def test_onnx(tmp_path, monkeypatch):
    """A network for CIFAR with the cosine head, in onnxruntime, with names and sizes from the file alone."""
    tiny.use(monkeypatch)
    run = tiny.train(tiny.recipe("schedule.epochs=1", method="ldam"), tmp_path)
    found = export_run(run, "onnx", tmp_path / "a.onnx")
    assert (found.checked_on, found.images) == ("test images", 40)
    assert found.difference < 1e-5
    session = onnxruntime.InferenceSession(found.path)
    about = session.get_modelmeta().custom_metadata_map
    predictor, images = ffds.load(run), tiny.dataset().test.images
    assert json.loads(about["class_names"]) == list(predictor.class_names)
    assert json.loads(about["preprocessing"])["stored_size"] == 8
    given = predictor.preprocess(torch.from_numpy(images)).contiguous().numpy()
    logits, probabilities = session.run(None, {"images": given})
    np.testing.assert_allclose(probabilities, predictor.probabilities(images), atol=1e-5)
    np.testing.assert_allclose(torch.from_numpy(logits).softmax(1), probabilities, atol=1e-6)


def test_every_format_of_a_network_of_timm(timm_run, exported, photos, capsys):
    import timm

    predictor, files = ffds.load(timm_run), files_of(photos / "test")
    expected, pixels = predictor.probabilities(files), stored(predictor, files)
    assert predictor.adjustment is not None
    _, found = onnxruntime.InferenceSession(exported["onnx"]).run(None, {"images": pixels})
    np.testing.assert_allclose(found, expected, atol=1e-4)
    program = torch.export.load(exported["torch"], extra_files=(extra := {"ffds.json": ""}))
    torch.testing.assert_close(program.module()(torch.from_numpy(pixels))[1], expected, atol=1e-4, rtol=0)
    assert json.loads(json.loads(extra["ffds.json"])["class_names"]) == CLASSES
    network = timm.create_model(f"local-dir:{exported['timm']}", pretrained=True).eval()
    with torch.inference_mode():
        found = network(predictor.preprocess(torch.from_numpy(pixels))).softmax(1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert network.pretrained_cfg["label_names"] == CLASSES
    wanted = timm.data.resolve_model_data_config(network)
    assert wanted["interpolation"] == "bicubic"
    transform = timm.data.create_transform(**wanted)
    assert transform(Image.open(BytesIO(files[0].read_bytes())).convert("RGB")).shape == (3, 24, 24)
    for form, path in exported.items():
        assert main(["export", str(timm_run.path), "--format", form, "--out", str(path)]) == 2
        assert "there is a file already" in capsys.readouterr().err


def test_the_page_on_serving(timm_run, exported, photos, monkeypatch):
    """Its code answers as `ffds predict` does, a large JPEG apart, which Pillow decodes smaller there."""
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert code.count("\n") <= 40
    monkeypatch.chdir(exported["onnx"].parent)
    place: dict[str, Any] = {}
    exec(compile(code.replace("from __future__", ""), "serve.py", "exec"), place)
    client, predictor = TestClient(place["app"]), ffds.load(timm_run)
    for file in files_of(photos / "test"):
        answer = client.post("/predict", params={"top": 2}, content=file.read_bytes()).json()
        expected = predictor.predict(file, top_k=2).top
        assert [one["class"] for one in answer] == [name for name, _ in expected]
        assert [one["probability"] for one in answer] == pytest.approx([p for _, p in expected], abs=2e-3)
    assert client.post("/predict", content=b"no image").status_code == 422


def test_resizing_in_the_graph(tmp_path):
    """Small images that the network sees larger; the kernel may round a pixel otherwise."""
    settings = ("data.image_size=12", "data.interpolation=bicubic", "data.augment=[]")
    run = tiny.train(tiny.recipe("schedule.epochs=1", *settings, method="ldam"), tmp_path)
    assert export_run(run, "torch", preprocess=True).difference < 1e-3


def test_without_its_images_a_file_is_checked_on_random_ones(tmp_path, monkeypatch):
    run = tiny.train(tiny.recipe("schedule.epochs=1", method="ce"), tmp_path)
    tiny.use(monkeypatch, tiny.dataset(of_test=2))
    assert "random images" in export_run(run, "torch").checked_on
    assert (run.path / "model.pt2").is_file()


def test_what_does_not_export_is_refused_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    tiny.use(monkeypatch)
    run = tiny.train(tiny.recipe("schedule.epochs=1", method="ce"), tmp_path / "runs")
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"only networks of timm(.|\n)*onnx"):
        export_run(run, "timm", out)
    with pytest.raises(InputError, match="no place for preprocessing"):
        export_run(run, "timm", out, preprocess=True)
    monkeypatch.setattr("ffds.inference.graph.ExportedNetwork.forward", lambda self, images: (images, images))
    with pytest.raises((InputError, RuntimeError)):
        export_run(run, "torch", out)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", str(run.path), "--format", "onnx", "--out", str(out)]) == 2
    assert "pip install 'ffds[export]'" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_file_that_does_something_else_is_refused(tmp_path, monkeypatch):
    run = tiny.train(tiny.recipe("schedule.epochs=1", method="ce"), tmp_path)

    def other(self, images):
        logits = self.network(self.preprocessing(images)).float().flip(1)
        return logits, logits.softmax(1)

    monkeypatch.setattr("ffds.inference.graph.ExportedNetwork.forward", other)
    with pytest.raises(InputError, match="does not do what the run does"):
        export_run(run, "torch")
    assert not (run.path / "model.pt2").exists()
