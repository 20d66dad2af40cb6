"""A run loaded to predict: what it was evaluated as, on whatever a user has of an image."""

import shutil
from io import BytesIO

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import ffds
from ffds.data.decode import SUFFIXES
from ffds.errors import InputError, Interrupted
from ffds.inference.load import evaluate_run
from ffds.run_directory import Run
from tests.data.pictures import bomb, write_folder, write_picture
from tests.training import tiny
from tests.training.test_own_images import own

CLASSES = ["cat, big", "dog", "owl"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder whose images are larger than the network's, among them a JPEG of several times its size."""
    root = tmp_path_factory.mktemp("photos")
    write_folder(root, dict.fromkeys(CLASSES, 5), dict.fromkeys(CLASSES, 4))
    write_picture(root / "test" / "owl" / "large.jpg", 5, (190, 140))
    return root


def trained_on(photos, out, **more):
    size = {"data.image_size": 24, "data.eval_resize": 28, "schedule.epochs": 1}
    return own(photos, out, **size, **more)


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    return trained_on(photos, tmp_path_factory.mktemp("runs"))


def files_of(split):
    return [path for path in sorted(split.rglob("*")) if path.suffix in SUFFIXES]


MODELS = [("resnet20", "bilinear"), ("timm/mobilenetv3_small_050", "bicubic")]


@pytest.mark.parametrize(("model", "interpolation"), MODELS)
def test_files_are_predicted_as_they_were_evaluated(model, interpolation, photos, tmp_path):
    run = trained_on(photos, tmp_path, **{"model.name": model, "data.interpolation": interpolation})
    table = pq.read_table(run.predictions).to_pydict()
    predictor = ffds.load(run.path)
    assert list(predictor.class_names) == CLASSES
    found = predictor.predict(files_of(photos / "test"), top_k=9)
    assert [CLASSES.index(one.label) for one in found] == table["prediction"]
    assert [one.probability for one in found] == table["confidence"]
    assert all(sorted(name for name, _ in one.top) == CLASSES for one in found)
    assert all(sum(value for _, value in one.top) == pytest.approx(1) for one in found)


BF16 = ("trainer.precision=bf16", "trainer.channels_last=false")
BICUBIC = ("data.interpolation=bicubic", "data.image_size=12", "data.eval_resize=14")
RUNS = [("ldam", ()), ("ldam", BF16), ("ce", BF16), ("ce", BICUBIC)]


@pytest.mark.parametrize(("method", "settings"), RUNS)
def test_arrays_are_predicted_as_they_were_evaluated(method, settings, tmp_path):
    run = tiny.train(tiny.recipe("schedule.epochs=1", *settings, method=method), tmp_path)
    table = pq.read_table(run.predictions).to_pydict()
    found = ffds.load(run).predict(tiny.dataset().test.images)
    assert [int(one.label) for one in found] == table["prediction"]
    assert [one.probability for one in found] == table["confidence"]


def test_every_form_of_an_image_is_the_same_image(trained, photos, tmp_path):
    predictor = ffds.load(trained)
    files = files_of(photos / "test")
    pictures = {path: Image.open(BytesIO(path.read_bytes())) for path in files}
    turned = [path for path in files if pictures[path].getexif().get(0x0112, 1) > 1]
    assert predictor.predict([pictures[path] for path in turned]) == predictor.predict(turned) != []
    file = write_picture(tmp_path / "a.png", 1, (40, 30))
    with Image.open(file) as opened:
        array = np.asarray(opened.convert("RGB"))
        tensor = torch.tensor(array).permute(2, 0, 1)
        forms = [file, str(file), opened, array, tensor, tensor / 255, Image.fromarray(array).convert("RGBA")]
        expected = predictor.probabilities(file)
        assert all(torch.equal(predictor.probabilities(form), expected) for form in forms)
        assert opened.size == array.shape[1::-1], "left as it was"
    grey = array[..., 0]
    assert predictor.predict(grey) == predictor.predict(np.stack([grey] * 3, axis=2))
    assert predictor.predict(grey) == predictor.predict(torch.tensor(grey)[None])
    batch = np.stack([array, array[::-1]])
    assert predictor.predict(batch) == predictor.predict(list(batch))
    assert predictor.predict(batch, batch_size=1) == [predictor.predict(image) for image in batch]
    assert predictor.predict(batch) == predictor.predict(torch.tensor(batch).permute(0, 3, 1, 2))
    assert predictor.predict([]) == []
    assert predictor.probabilities([]).shape == (0, 3)


def test_top_k_and_threshold(trained, photos):
    predictor, files = ffds.load(trained), files_of(photos / "test")
    rows = predictor.probabilities(files)
    for one, row in zip(predictor.predict(files, top_k=2), rows, strict=True):
        assert [value for _, value in one.top] == sorted(row.tolist(), reverse=True)[:2]
        assert one.label == one.top[0][0]
    for one, row in zip(predictor.predict(files, threshold=0.35), rows, strict=True):
        assert (one.label == "unknown") == (max(row.tolist()) < 0.35)


BAD = {
    "no image": (b"no image", "not an image"),
    "no bytes": (b"", "no bytes"),
    "a bomb": (bomb(20_000), "decompression bomb"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_cannot_be_read_is_named(name, trained, tmp_path):
    content, told = BAD[name]
    (file := tmp_path / "bad.jpg").write_bytes(content)
    with pytest.raises(InputError, match=told) as caught:
        ffds.load(trained).predict([file])
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (np.zeros((4, 4, 3)), "float64"),
        (np.zeros((4, 4, 2), np.uint8), "not the shape"),
        (np.zeros(4, np.uint8), "not the shape"),
        (np.zeros((0, 4), np.uint8), "not the shape"),
        (torch.full((3, 4, 4), 1.1), "outside of 0 to 1"),
        (torch.full((3, 4, 4), float("nan")), "outside of 0 to 1"),
        (7, "int"),
    ],
)
def test_what_is_no_image_is_refused(given, told, trained):
    with pytest.raises(InputError, match=told):
        ffds.load(trained).predict([given])


def test_other_arguments_are_refused(trained, photos):
    predictor = ffds.load(trained)
    for wrong in ({"top_k": 0}, {"threshold": 1.5}, {"batch_size": 0}):
        with pytest.raises(InputError):
            predictor.predict(photos / "test" / "owl" / "001.png", **wrong)
    for device in ("cuda:99", "nowhere"):
        with pytest.raises(InputError, match="no such device"):
            ffds.load(trained, device=device)


def test_neither_the_data_nor_the_place_of_the_run_matters(trained, photos, tmp_path, monkeypatch):
    expected = ffds.load(trained).predict(files_of(photos / "test"))
    copy = shutil.copytree(photos, tmp_path / "copy")
    moved = shutil.copytree(trained.path, tmp_path / "moved")
    monkeypatch.setattr("ffds.data.open.open_dataset", None)
    monkeypatch.chdir(tmp_path)
    assert ffds.load(moved).predict(files_of(copy / "test")) == expected


def test_images_as_they_are_have_the_size_of_the_training_images(tmp_path):
    """Their size is noted in the run; where an earlier version has made it, any image is taken as it is."""
    root = tmp_path / "photos"
    for k in range(12):
        write_picture(root / ("train", "test")[k % 2] / "ab"[k // 6] / f"{k}.png", k, (20, 20))
    run = own(root, tmp_path / "runs", **{"data.image_size": None, "data.eval_resize": None})
    predictor, whole = ffds.load(run), files_of(root / "test")
    assert predictor.stored.size == 20
    assert [one.probability for one in predictor.predict(whole)] == evaluate_run(run)[1].confidence.tolist()
    larger = write_picture(tmp_path / "larger.png", 1, (60, 50))
    mixed = predictor.predict([whole[0], larger, whole[1]])
    for one, alone in zip([mixed[0], mixed[2]], predictor.predict(whole[:2]), strict=True):
        assert (one.label, one.probability) == (alone.label, pytest.approx(alone.probability))
    (run.path / "environment.json").write_text(
        (run.path / "environment.json").read_text().replace("image_shape", "other")
    )
    older = ffds.load(run)
    assert older.stored.size is None
    assert older.predict(whole) == predictor.predict(whole)
    assert len(older.predict([whole[0], larger, whole[1]])) == 3, "each in its own size"


def test_an_unfinished_run_predicts_with_a_note(tmp_path, monkeypatch, capsys):
    tiny.use(monkeypatch)
    with pytest.raises(Interrupted):
        tiny.train(tiny.recipe(), tmp_path, polls=tiny.POLLS + 1)
    run = Run.of(tiny.recipe(), tmp_path)
    assert len(ffds.load(run).predict(tiny.dataset().test.images)) == 40
    assert "not finished: this is its network after 1 of 4 epochs" in capsys.readouterr().err
    shutil.rmtree(run.checkpoints)
    with pytest.raises(InputError, match="no checkpoint yet"):
        ffds.load(run)
    with pytest.raises(InputError, match="not a run directory"):
        ffds.load(tmp_path / "nowhere")
