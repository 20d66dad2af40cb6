"""`ffds predict` as a user types it."""

import csv
import json
import shutil

import pyarrow.parquet as pq
import pytest

import ffds
from ffds.cli import main
from tests.data.pictures import write_folder, write_picture
from tests.full_disk import room_for
from tests.inference.test_predictor import CLASSES, files_of, trained_on


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A run, and a folder of new photos in which lie files of other kinds and damaged ones."""
    base = tmp_path_factory.mktemp("work")
    photos = write_folder(base / "photos", dict.fromkeys(CLASSES, 4), dict.fromkeys(CLASSES, 3))
    run = trained_on(photos, base / "runs")
    new = shutil.copytree(photos / "test", base / "new")
    write_picture(new / "first, with a comma.jpg", 1)
    write_picture(new / ".hidden" / "a.jpg", 1)
    write_picture(new / "owl" / ".hidden.jpg", 1)
    (new / "notes.txt").write_text("no image")
    (new / "dog" / "broken.jpg").write_bytes(b"no image")
    (new / "owl" / "back").symlink_to(new)
    return run, new


def predicted(run, new, capsys, *options):
    assert main(["predict", str(run.path), str(new), *options]) == 0
    return capsys.readouterr()


def expected_files(new):
    """In the folder's own order: its files by name, then its folders by name."""
    loose = [path for path in files_of(new) if path.parent == new and path.name[0] != "."]
    within = [path for name in CLASSES for path in sorted((new / name).glob("[!.]*.*g"))]
    return [path for path in [*loose, *within] if path.is_file()]


def test_every_format_has_the_same_rows_in_order(work, tmp_path, capsys):
    run, new = work
    files, predictor = expected_files(new), ffds.load(run)
    assert len(files) == 11
    for name in ("a.csv", "a.json", "a.parquet"):
        told = predicted(run, new, capsys, "--out", str(tmp_path / name), "--top", "3")
        assert f"written: {tmp_path / name}, 11 images" in told.out
        assert f"1 of 11 images cannot be read, the first of them {new / 'dog' / 'broken.jpg'}" in told.err
    listed = json.loads((tmp_path / "a.json").read_text())
    assert json.loads(predicted(run, new, capsys, "--json", "--top", "3").out) == listed
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert [row["path"] for row in listed] == [row["path"] for row in rows] == list(map(str, files))
    good = [file for file in files if file.name != "broken.jpg"]
    found = iter(predictor.predict(good, top_k=3, batch_size=250))
    for flat, typed, nested in zip(rows, table, listed, strict=True):
        assert {key: value or None for key, value in flat.items()} == {
            key: None if value is None else str(value) if isinstance(value, str) else flat[key]
            for key, value in typed.items()
        }
        if "broken" in nested["path"]:
            assert "not an image" in flat["error"]
            assert (flat["label"], typed["label"], nested["label"], nested["top"]) == ("", None, None, [])
            continue
        one = next(found)
        assert [(pair["class"], pair["probability"]) for pair in nested["top"]] == list(one.top)
        assert (flat["label"], flat["class_2"]) == (one.label, one.top[1][0])
        assert float(flat["probability_2"]) == typed["probability_2"] == one.top[1][1]
    assert "cat, big" in {row[column] for row in rows for column in ("label", "class_2", "class_3")}


def test_lines_for_people(work, capsys):
    run, new = work
    told = predicted(run, new, capsys, "--threshold", "1", "--batch-size", "2")
    lines = told.out.splitlines()
    assert len(lines) == 11
    assert all(": unknown (at best " in line for line in lines if "broken" not in line)
    assert [line.partition(": ")[0] for line in lines] == list(map(str, expected_files(new)))


def test_files_come_in_the_order_they_are_named(work, capsys):
    run, new = work
    named = [new / "owl" / "002.jpg", new / "cat, big", new / "owl" / "000.jpg"]
    shutil.copy(named[0], new.parent / "no-suffix")
    arguments = [str(path) for path in (*named, new.parent / "no-suffix")]
    assert main(["predict", str(run.path), *arguments, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    first, *_, last = rows
    assert [row["path"] for row in rows][:2] == [str(named[0]), str(named[1] / "000.jpg")]
    assert first["label"] == last["label"]
    assert (len(rows), last["path"]) == (6, str(new.parent / "no-suffix"))
    table = new / "list.csv"
    table.write_text("path,remark\nowl/002.jpg,x\n" + f'"{named[1]}/000.jpg",y\nnowhere.png,z\n')
    try:
        assert main(["predict", str(run.path), str(table), "--json"]) == 0
        listed = json.loads(capsys.readouterr().out)
    finally:
        table.unlink()
    assert [row["label"] for row in listed] == [first["label"], rows[1]["label"], None]
    assert "nowhere.png" in listed[2]["path"]
    assert "No such file" in listed[2]["error"]


def test_nothing_is_written_where_nothing_can_be_predicted(work, tmp_path, capsys):
    run, _ = work
    (bad := tmp_path / "bad.jpg").write_bytes(b"x")
    (empty := tmp_path / "empty").mkdir()
    out = tmp_path / "out.csv"
    wrong = {
        "none of 1 images can be read": [bad, "--out", out],
        "there is no image": [empty, "--out", out],
        "no such file": [tmp_path / "nowhere", "--out", out],
        "no such format": [bad, "--out", tmp_path / "out.xlsx"],
        "at least one class": [bad, "--top", "0"],
        "a threshold is a probability": [bad, "--threshold", "2"],
        "no such device": [bad, "--device", "cuda:99"],
    }
    for message, arguments in wrong.items():
        assert main(["predict", str(run.path), *map(str, arguments)]) == 2
        assert message in capsys.readouterr().err
    assert main(["predict", str(run.path), str(bad), "--json"]) == 2
    assert [row["label"] for row in json.loads(capsys.readouterr().out)] == [None]
    assert {path.name for path in tmp_path.iterdir()} == {"bad.jpg", "empty"}


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.parquet"])
def test_a_full_disk_leaves_the_file_that_was_there(name, work, tmp_path, capsys):
    run, new = work
    (tmp_path / name).write_text("before")
    with room_for(20):
        assert main(["predict", str(run.path), str(new), "--out", str(tmp_path / name)]) == 2
    assert f"cannot save {name}" in capsys.readouterr().err
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]
