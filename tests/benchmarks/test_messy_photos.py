"""The way that `docs/own-images.md` describes, from a messy folder of photographs to a file that serves."""

import csv
import json
from itertools import product
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmarks.messy_photos import CLASSES, messy_photos
from PIL import Image

from ffds.cli import main
from tests.data.pictures import write_picture

OF_TEST = 5
SMALL = ["model.name=resnet8", "model.pretrained=false", "data.image_size=32", "data.eval_resize=36"]
SMALL += [
    "data.interpolation=bilinear",
    "data.mean=[0.5]",
    "data.std=[0.25]",
    "schedule.epochs=2",
    "optimizer.layer_decay=1.0",
]


def write_pack(directory: Path, scratch: Path) -> Path:
    """A pack in the layout of the hub with a few pictures of each of the twelve classes, and of one more."""
    names = ["n00000000", *CLASSES]
    metadata = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    directory.mkdir()
    for split, count in (("train", 30), ("val", OF_TEST)):
        rows = []
        for label, k in product(range(len(names)), range(count)):
            content = write_picture(scratch / "a.jpg", 100 * label + count + k, (64, 64)).read_bytes()
            rows.append({"image": {"bytes": content}, "label": label})
        table = pa.Table.from_pylist(rows).replace_schema_metadata({"huggingface": json.dumps(metadata)})
        pq.write_table(table, directory / f"{split}-00000-of-00001.parquet")
    return directory


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("walk")
    messy_photos(write_pack(base / "pack", base), base / "photos", largest=30)
    return base / "photos"


def test_from_a_messy_folder_to_a_file_that_serves(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ffds(*arguments: str) -> str:
        assert main(list(arguments)) == 0
        return capsys.readouterr().out

    monkeypatch.chdir(photos.parent)
    told = ffds("init", "photos")
    assert "2 images cannot be read" in told
    assert "1 image is in more than one split" in told
    assert "many: over 100 training images" in told

    summary = json.loads(ffds("train", "photos.yaml", *SMALL, "--json"))
    run = Path(summary["path"])
    page = (run / "report.html").read_text("utf-8")
    assert all(name in page for name in ("brown bear, bruin", "teapot – théière", "IMG 00"))

    ffds("predict", str(run), "photos/Test", "--out", "labels.csv")
    with Path("labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(CLASSES) * OF_TEST + 1
    right = [row["label"] == Path(row["path"]).parent.name for row in rows]
    accuracy = summary["accuracy"]
    assert 100 * sum(right) / len(rows) == pytest.approx(accuracy.get("kept", accuracy["last"]))

    ffds("export", str(run), "--format", "onnx", "--preprocess", "--out", "photos.onnx")
    session = onnxruntime.InferenceSession("photos.onnx")
    about = session.get_modelmeta().custom_metadata_map
    names, steps = json.loads(about["class_names"]), json.loads(about["preprocessing"])
    assert sorted(names) == sorted(CLASSES.values())
    size = steps["stored_size"]
    files = [row for row in rows if row["path"].endswith(".jpg")]
    squares = [Image.open(row["path"]).convert(steps["mode"]).resize((size, size), 2) for row in files]
    _, probabilities = session.run(None, {"images": np.stack(list(map(np.asarray, squares)))})
    assert [names[k] for k in probabilities.argmax(axis=1)] == [row["label"] for row in files]
