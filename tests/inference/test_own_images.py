"""A run of your own images put to work: found from anywhere, or on other images, with their own labels."""

import csv
import shutil

import pyarrow.parquet as pq
import pytest

from ffds.cli import main
from ffds.errors import InputError
from ffds.inference.load import evaluate_run
from ffds.run_directory import Run, open_run
from tests.data.pictures import write_folder, write_picture
from tests.data.sources.test_parquet import png, write
from tests.full_disk import room_for
from tests.training.test_own_images import own

CLASSES = ["cat", "dog", "owl"]
TRAIN = {"cat": 10, "dog": 6, "owl": 5}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Run and images, the latter without splits, trained in their directory, with relative paths."""
    base = tmp_path_factory.mktemp("base")
    (write_folder(base, TRAIN, {}) / "train").rename(base / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        return Run(base / own("photos", "runs").path), base / "photos"


def labels(evaluated):
    return [CLASSES[label] for label in evaluated.predictions.label.tolist()]


def test_it_is_scored_from_anywhere_and_wherever_the_two_are_moved_together(trained, tmp_path, monkeypatch):
    run, photos = trained
    monkeypatch.chdir(tmp_path)
    evaluated = evaluate_run(open_run(run.path))
    assert evaluated.scores.accuracy == run.summary["accuracy"]["last"]
    assert len(evaluated.predictions.label) < sum(TRAIN.values())
    shutil.copytree(photos.parent, tmp_path / "copy")
    (tmp_path / "link").symlink_to(tmp_path / "copy" / run.path.relative_to(photos.parent))
    for file in (tmp_path / "copy/photos").rglob("*.jpg"):
        write_picture(file, 99)
    with pytest.raises(InputError, match="changed since") as caught:
        evaluate_run(Run(tmp_path / "link"))
    assert str(tmp_path / "copy/photos") in str(caught.value)


def test_moved_alone_it_takes_the_path_of_the_recipe_as_it_is_seen_here(trained, tmp_path, monkeypatch):
    run, photos = trained
    # So deep that no path from here to the images, as it was from there, leads to what others have in /tmp.
    moved = Run(shutil.copytree(run.path, tmp_path / "1/2/3/4/moved"))
    monkeypatch.chdir(photos.parent)
    assert evaluate_run(moved).scores.accuracy == run.summary["accuracy"]["last"]
    (moved.path / "environment.json").write_text("{")
    assert evaluate_run(moved).scores.accuracy == run.summary["accuracy"]["last"]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"data\.root is not a directory"):
        evaluate_run(moved)


def test_the_same_images_in_another_place_are_not_tested_on_where_they_were_trained_on(trained, tmp_path):
    run, photos = trained
    copy = shutil.copytree(photos, tmp_path / "copy")
    assert traced(evaluate_run(run, [f"data.root={copy}"])) == traced(evaluate_run(run))
    with pytest.raises(InputError, match="images that were trained on"):
        evaluate_run(run, [f"data.root={copy}", "data.seed=5"])


def traced(evaluated):
    return [getattr(evaluated.predictions, name).tolist() for name in ("index", "label", "confidence")]


LAYOUTS = {
    "no splits: all": ({"owl": 2, "cat": 3}, "", ["cat"] * 3 + ["owl"] * 2),
    "a test split alone": ({"owl": 1, "dog": 2}, "test", ["dog"] * 2 + ["owl"]),
    "a validation split alone": ({"dog": 2}, "val", ["dog"] * 2),
    "a training split alone: all of it": ({"cat": 4, "dog": 1}, "train", ["cat"] * 4 + ["dog"]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_images_are_scored_whole_by_their_own_labels(layout, trained, tmp_path, capsys):
    counts, split, expected = LAYOUTS[layout]
    made = write_folder(tmp_path / "made", counts, {}) / "train"
    place = made.rename(tmp_path / (split or "all"))
    (tmp_path / "made").rmdir()
    root = tmp_path if split else place
    evaluated = evaluate_run(trained[0], [f"data.root={root}"])
    assert labels(evaluated) == expected
    assert f"scored: the {len(expected)} images of image folder {place}" in capsys.readouterr().err


def test_the_test_split_is_chosen_before_the_others_or_by_name(trained, tmp_path):
    for split, counts in {"test": {"owl": 1}, "val": {"dog": 2}, "train": {"cat": 3}}.items():
        (write_folder(tmp_path / "made", counts, {}) / "train").rename(tmp_path / "made" / split)
    root = f"data.root={tmp_path / 'made'}"
    assert labels(evaluate_run(trained[0], [root])) == ["owl"]
    assert labels(evaluate_run(trained[0], [root, "data.test_split=val"])) == ["dog"] * 2


@pytest.mark.parametrize("split", ["train", "test", "photos"])
@pytest.mark.parametrize(
    ("numbers", "names", "expected"),
    [
        ([0, 0, 1], ["owl", "cat"], ["owl", "owl", "cat"]),
        ([2, 0, 1], None, ["owl", "cat", "dog"]),
        ([2, 0, 1], ["owl", "cat", "dog"], ["dog", "owl", "cat"]),
    ],
)
def test_parquet_files_are_scored_whole_by_name_or_by_number(
    numbers, names, expected, split, trained, tmp_path
):
    write(tmp_path / f"{split}-00000-of-00001.parquet", numbers, names=names, contents=[png(1, 8)] * 3)
    evaluated = evaluate_run(trained[0], ["data.name=parquet", f"data.root={tmp_path}"])
    assert labels(evaluated) == expected


@pytest.mark.parametrize(
    ("counts", "told"),
    [({"cat": 1, "dgo": 1}, r"class 'dgo'(.|\n)*did you mean dog\?"), ({"0": 1, "1": 1}, "class '0'")],
)
def test_a_class_that_the_network_does_not_know_is_refused(counts, told, trained, tmp_path):
    root = write_folder(tmp_path, counts, {}) / "train"
    with pytest.raises(InputError, match=told):
        evaluate_run(trained[0], [f"data.root={root}"])


def test_images_that_cannot_be_read_are_an_error_or_told(trained, tmp_path, capsys):
    root = write_folder(tmp_path, {"cat": 2, "dog": 1}, {}) / "train"
    (root / "cat/000.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match="cannot be read"):
        evaluate_run(trained[0], [f"data.root={root}"])
    evaluated = evaluate_run(trained[0], [f"data.root={root}", "data.on_bad_image=skip"])
    assert labels(evaluated) == ["cat", "dog"]
    assert f"left out: {root / 'cat/000.jpg'}" in capsys.readouterr().err
    shutil.rmtree(root / "cat")
    shutil.rmtree(root / "dog")
    with pytest.raises(InputError, match="no images in class directories"):
        evaluate_run(trained[0], [f"data.root={root}"])


def test_predictions_in_the_format_of_their_name(trained, tmp_path, capsys):
    run = str(trained[0].path)
    for name in ("a.parquet", "b.CSV", "c"):
        assert main(["eval", run, "--predictions", str(tmp_path / name)]) == 0
    with (tmp_path / "b.CSV").open() as file:
        rows = list(csv.DictReader(file))
    columns = pq.read_table(tmp_path / "a.parquet").to_pydict()
    assert pq.read_table(tmp_path / "c").to_pydict() == columns
    of_numbers = columns.keys() - {"label_name", "prediction_name", "file"}
    read = {key: [(float if key in of_numbers else str)(row[key]) for row in rows] for key in rows[0]}
    assert read == columns
    capsys.readouterr()
    for name in ("a.json", "a.csv.gz"):
        assert main(["eval", run, "--predictions", str(tmp_path / name)]) == 2
        assert "FILE.parquet, FILE.csv" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.parquet", "a.csv"])
def test_predictions_that_do_not_fit_on_the_disk(name, trained, tmp_path, capsys):
    with room_for(20):
        assert main(["eval", str(trained[0].path), "--predictions", str(tmp_path / name)]) == 2
    assert capsys.readouterr().err.count("cannot save") == 1
    assert list(tmp_path.iterdir()) == []
