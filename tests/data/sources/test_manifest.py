"""Tables as people write them: of any usual spelling they give the images of the same image folder."""

import csv
import json
import os
import shutil
from functools import partial

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ffds.cli import main
from ffds.data import open_dataset
from ffds.data.content import knowing_images
from ffds.data.open import open_labelled
from ffds.errors import InputError
from ffds.inference.load import evaluate_run
from ffds.recipes.schema import Data
from ffds.run_directory import open_run
from tests.data.pictures import same, write_folder, write_picture

NAMES = ["007", "Große Möwe", "owl, barn", 'the "cat"']


def opened(root, name="manifest", **settings):
    return open_dataset(Data(name=name, root=str(root), image_size=4, **settings))


def refused(words, root, **settings):
    with pytest.raises(InputError, match=f"(?s){words}"):
        opened(root, **settings)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos") / "a b"
    return write_folder(root, dict(zip(NAMES, (4, 3, 2, 2), strict=True)), dict.fromkeys(NAMES[1:], 2))


@pytest.fixture(scope="module")
def rows(photos):
    """Path, class and split of each image, in the order of the folder."""
    return [
        (file.relative_to(photos).as_posix(), file.parent.name, split)
        for split in ("train", "test")
        for file in sorted((photos / split).rglob("*.*"))
    ]


def table(file, rows, header=("path", "label", "split"), encoding="utf-8", **style):
    with file.open("w", encoding=encoding, newline="") as out:
        csv.writer(out, **style).writerows([header, *rows])
    return file


def json_lines(file, rows):
    lines = (dict(zip(("file_name", "category", "fold"), row, strict=True)) for row in rows)
    file.write_text("\n\n".join(map(json.dumps, lines)))


def parquet(file, rows):
    columns = {"image": pa.array([row[0] for row in rows])}
    columns["target"] = pa.array([row[1] for row in rows]).dictionary_encode()
    pq.write_table(pa.table(columns | {"Subset": [row[2] for row in rows]}), file)


def hub(file, rows):
    """Labels as the hub's numbers of classes, in another order than the sorted one."""
    columns = dict(zip(("file", "class", "set"), map(list, zip(*rows, strict=True)), strict=True))
    kinds = {"file": datasets.Value("string"), "class": datasets.ClassLabel(names=NAMES[::-1])}
    features = datasets.Features({**kinds, "set": datasets.Value("string")})
    datasets.Dataset.from_dict(columns, features).to_parquet(file)


def excel(file, rows):
    table(file, rows, ("File Name", " Class", "SPLIT"), "utf-8-sig", delimiter=";")


def by_hand(file, rows):
    """Spaces behind the commas, an empty line, and empty cells behind the last column."""
    quoted = ([text.replace('"', '""') for text in row] for row in rows)
    lines = "".join(f'"{path}", "{name}", {split} ,,\r\n' for path, name, split in quoted)
    file.write_text("path, label, split,,\r\n\r\n" + lines + ",,,,\r\n")


def changed(file, rows, change):
    table(file, [change(*row) for row in rows])


WRITTEN = {
    "plain.csv": table,
    "excel.csv": excel,
    "tab.tsv": partial(table, header=("img-path", "labels", "set"), delimiter="\t"),
    "by hand.csv": by_hand,
    "windows.csv": partial(changed, change=lambda path, *rest: (path.replace("/", "\\"), *rest)),
    "decomposed.csv": partial(changed, change=lambda *row: [text.replace("ö", "o\u0308") for text in row]),
    "usual.csv": partial(changed, change=lambda path, name, split: (path, name, SPELLED[split])),
    "lines.jsonl": json_lines,
    "rows.parquet": parquet,
    "hub.parquet": hub,
}
SPELLED = {"train": "Training", "test": "VAL"}


@pytest.mark.parametrize("name", WRITTEN)
def test_every_usual_spelling_of_a_table_gives_the_images_of_the_folder(name, photos, rows):
    WRITTEN[name](photos / name, rows)
    dataset = opened(photos / name)
    same(dataset, opened(photos, "folder"))
    assert dataset.class_names == tuple(NAMES)
    assert dataset.notes == ()


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("parted", [True, False])
def test_metadata_of_an_imagefolder(parted, suffix, photos, rows, tmp_path):
    """In one table with the splits as first directories, or in a table in the directory of each split."""
    root = shutil.copytree(
        photos, tmp_path / "copy", ignore=shutil.ignore_patterns("*.csv", "*l", "*.parquet")
    )
    if parted:
        for split in ("train", "test"):
            there = [(path.partition("/")[2], name) for path, name, one in rows if one == split]
            datasets.Dataset.from_dict(columns(there)).to_pandas().pipe(written, root / split, suffix)
    else:
        datasets.Dataset.from_dict(columns(rows)).to_pandas().pipe(written, root, suffix)
    dataset = opened(root)
    same(dataset, opened(photos, "folder"))
    note = "the splits are the first directories of the paths: test, train"
    assert dataset.notes == (() if parted else (note,))
    with pytest.raises(InputError, match=r"(?s)label_column=names is no column.*columns file_name, label"):
        opened(root, label_column="names")


def columns(rows):
    return {"file_name": [row[0] for row in rows], "label": [row[1] for row in rows]}


def written(frame, directory, suffix):
    file = directory / f"metadata.{suffix}"
    if suffix == "jsonl":
        frame.to_json(file, orient="records", lines=True)
    else:
        getattr(frame, f"to_{suffix}")(file, index=False)


@pytest.fixture
def two(tmp_path):
    """Two images of each of two classes, without a table."""
    for number, name in enumerate(("a0.png", "a1.png", "b0.png", "b1.png", "../elsewhere.png")):
        write_picture(tmp_path / "data" / name, number)
    return tmp_path / "data"


ROWS = [("a0.png", "a"), ("a1.png", "a"), ("b0.png", "b"), ("b1.png", "b")]


def test_without_splits_the_test_set_is_cut_and_numbers_are_in_their_order(two):
    assert opened(table(two / "x.csv", ROWS, ("path", "label")), test_fraction=0.5).class_counts == [1, 1]
    for names, classes in (
        (("10", "9"), ("9", "10")),
        (("010", "9"), ("010", "9")),
        (("-1", "1"), ("-1", "1")),
    ):
        named = [(path, names[label == "a"]) for path, label in ROWS]
        file = table(two / "x.csv", named, ("path", "label"))
        assert opened(file, test_fraction=0.5).class_names == classes
    (two / "x.jsonl").write_text(
        "\n".join(f'{{"file": "{path}", "label": {label}}}' for path, label in named)
    )
    assert opened(two / "x.jsonl", test_fraction=0.5).class_names == ("-1", "1")


def test_splits_that_have_no_usual_names_are_folds(two, capsys):
    rows = [(*row, fold) for row, fold in zip(ROWS, ("0", "1", "0", "1"), strict=True)]
    file = table(two / "x.csv", rows, ("path", "label", "fold"))
    dataset = opened(file, test_split="1")
    assert [path.name for path in dataset.test.files] == ["a1.png", "b1.png"]
    assert dataset.class_counts == [1, 1]
    assert "data.test_split=0 would test on its rows 0" in opened(file, test_fraction=0.5).notes[0]
    assert len(opened(file, test_fraction=0.5).train) == 2
    refused(r"no split is for training.*0, 1.*data.test_split=0", file, split_column="fold")
    refused(r"test_split=2 is no split.*allowed: 0, 1", file, test_split="2")
    refused(
        r"split_column=folt is no column.*columns path, label, fold.*mean fold", file, split_column="folt"
    )


HEADERS = {
    "a,b\n": r"no column can be the image.*x.csv.*columns a, b.*allowed: path, file.*data.image_column=NAME",
    "path,b\n": r"no column can be the label.*allowed: label.*data.label_column=NAME",
    "path,file_name,label\n": "several columns can be the image.*path, file_name.*data.image_column=path",
    "path,label,class\n": "several columns can be the label.*label, class.*data.label_column=label",
    "path,label,set,split\n": "several columns can be the split.*data.split_column=set",
    "path,label,label\n": "two columns have the same name.*label",
    "path,label\n": "no rows",
    "": "no column can be the image",
    "path,label\na0.png,a\n\nnone.png,b\n": "a row has a file that is not there.*x.csv line 4.*none.png",
    "path,label\na0.png,a\nx\x00,b\n": "a file that is not there.*line 3",
    f"path,label\na0.png,a\n{'x' * 300},b\n": "a file that is not there.*line 3",
    "path,label\nx,a\ny,b\n": "2 rows have a file that is not there.*line 2",
    "path,label\na0.png,a\nb0.png, \n": "a row has no label.*line 3",
    "path,label\na0.png,a\n,b\n": "a row has no path.*line 3",
    "path,label,split\na0.png,a,train\nb0.png,b,\n": "a row has no split.*line 3",
    "path,label\na0.png,a\n./a0.png,b\n": "two rows name the same file.*line 3.*a0.png, as in .*line 2",
    "path,label\na0.png,a\nb0.png,owl, barn\n": "another number of values.*line 3.*3: b0.png, owl,.*2: path",
    "path,label\na0.png,a\nb0.png\n": "another number of values.*line 3",
    'path,label\na0.png,"a\nb0.png,b\n': "a table cannot be read.*line 2.*end of data",
    'path,label\na0.png,"a\na"\nb0.png,"5"" d"x\n': "a table cannot be read.*line 4",
    "path,label,split\na0.png,a,test\nb0.png,b,val\n": "no split is for training.*test, val",
    "path,label,split\na0.png,a,train\na1.png,b,train\nb0.png,A,val\n": "class 'A' is no .*line 4.*mean a",
    "path,label,split\na0.png,a,train\na1.png,b,train\nb0.png,a,val\nb1.png,a,dev\n": "could be the test",
    "path,label\na0.png,a\na1.png,a\n": "a single class",
}


@pytest.mark.parametrize("text", HEADERS)
def test_a_table_that_cannot_be_used(text, two):
    (two / "x.csv").write_text(text)
    refused(HEADERS[text], two / "x.csv")


LINES = {
    b'{"path": "a0.png", "label": 1.5}': "neither text nor a whole number.*line 1, column label.*1.5",
    b'{"path": "a0.png", "label": true}': "neither text nor a whole number.*True",
    b'{"path": "a0.png"}\n{"path": "b0.png", "label": "b"}': "a row has no label.*line 1",
    b'{"path": "a0.png", "label": 1, "label": 2}': "a table cannot be read.*line 1.*twice",
    b"\n[1]": "a table cannot be read.*line 2.*no object",
    b"{": "a table cannot be read.*line 1",
    b"[" * 10**5: "a table cannot be read.*line 1",
    b'{"path": "a0.png"}\n{"label": "caf\xe9"}': "not UTF-8 text.*line 2.*byte 0xe9.*as UTF-8",
    '{"path": "a0.png"}'.encode("utf-16"): "not UTF-8 text.*line 1.*UTF-16",
}


@pytest.mark.parametrize("content", LINES, ids=range(len(LINES)))
def test_lines_that_cannot_be_used(content, two):
    (two / "x.jsonl").write_bytes(content)
    refused(LINES[content], two / "x.jsonl")


def test_tables_that_are_none(two):
    for name, words in {
        "none.csv": "data.root is not a directory.*name the table: data.root=FILE",
        "a0.png": "no such kind of table is read.*a0.png.*got: +.png.*allowed: .csv, .tsv",
        ".": "no metadata.*got: +no table",
    }.items():
        refused(words, two / name)
    os.mkfifo(two / "pipe.csv")
    refused("a table cannot be read.*not a regular file", two / "pipe.csv")
    (two / "bad.parquet").write_bytes(b"x")
    refused("a Parquet file cannot be read", two / "bad.parquet")
    refused(r"no metadata.*bad.parquet, pipe.csv.*data.root=.*bad.parquet", two)
    with pytest.raises(InputError, match=r"(?s)manifest needs data.root.*name the table"):
        open_dataset(Data(name="manifest"))
    for suffix in ("csv", "jsonl"):
        (two / f"metadata.{suffix}").write_text("")
    refused(r"several tables could be the metadata.*metadata.csv, metadata.jsonl", two)


@pytest.mark.parametrize("path", ["../elsewhere.png", "{absolute}"])
def test_a_directory_keeps_to_itself_and_a_table_may_name_any_file(path, two):
    path = path.format(absolute=two.parent / "elsewhere.png")
    file = table(two / "metadata.csv", [*ROWS, (path, "b")], ("file_name", "label"))
    assert opened(file, test_fraction=0.5).class_counts == [1, 1]
    refused(r"a path leads out of the directory of the data.*line 6.*data.root=.*metadata.csv", two)
    inside = [(str(two / "a0.png"), "a"), *ROWS[1:]]
    table(file, inside, ("file_name", "label"))
    assert opened(two, test_fraction=0.5).class_counts == [1, 1]
    (two / "a0.png").unlink()
    (two / "a0.png").symlink_to("../elsewhere.png")
    refused("a link leads out of the directory of the data", two)
    assert opened(file, test_fraction=0.5).class_counts == [1, 1]


def test_files_that_are_missing_or_damaged_can_be_left_out(two):
    (two / "b1.png").write_bytes(b"none")
    file = table(two / "x.csv", [*ROWS, ("b0.png/none", "b"), ("none.png", "a")], ("path", "label"))
    dataset = opened(file, on_bad_image="skip", test_fraction=0.5)
    assert dataset.class_counts == [1, 1]
    assert [line.partition(":")[0].rpartition("data/")[2] for line in dataset.skipped] == [
        *("b1.png", "b0.png/none", "none.png")
    ]


def test_an_image_folder_beside_a_table_says_so(two):
    """Also where there are no directories of classes."""
    table(two / "labels.csv", ROWS, ("path", "label"))
    words = (
        r"no class directories.*fix: +.*labels.csv is not read; .*data.name=manifest data.root=.*labels.csv"
    )
    with pytest.raises(InputError, match=f"(?s){words}"):
        opened(two, "folder")
    with pytest.raises(InputError, match=r"(?s)not a directory.*data.name=manifest data.root=FILE"):
        opened(two / "labels.csv", "folder")
    for name in ("a", "b"):
        for k in range(2):
            write_picture(two / "train" / name / f"{k}.png", k)
            write_picture(two / "test" / name / f"{k}.png", k)
    table(two / "train" / "metadata.csv", ROWS, ("file_name", "label"))
    (two / "labels.csv").unlink()
    (note,) = opened(two, "folder").notes
    assert note.endswith(
        f"metadata.csv is not read; it would be by data.name=manifest data.root={two / 'train'}"
    )


def test_a_run_is_scored_from_anywhere_and_on_other_tables(photos, rows, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(photos)
    table(photos / "own.csv", rows)
    settings = ["model.name=resnet20", "model.pretrained=false", "data.image_size=8", "data.eval_resize=null"]
    settings += ["schedule.epochs=1", "method=ce", "data.in_memory=false", "data.workers=0"]
    asked = ["train", "own-folder", "data.name=manifest", "data.root=own.csv", *settings]
    assert main([*asked, f"--out={tmp_path}", "--json"]) == 0
    run = open_run(json.loads(capsys.readouterr().out)["path"])
    assert run.recipe.data.images == knowing_images(run.recipe.with_images(None)).data.images
    monkeypatch.chdir(tmp_path)
    assert evaluate_run(run).scores.accuracy == run.summary["accuracy"]["last"]
    assert len(evaluate_run(run, [f"data.root={photos}/own.csv"]).predictions.label) == 6
    shuffled = [(str(photos / path), name.replace("ö", "o\u0308"), "eval") for path, name, _ in rows[::-1]]
    other = table(tmp_path / "other.csv", [*shuffled[:5], (photos / rows[0][0], "owl, barn", "extra")])
    evaluated = evaluate_run(run, [f"data.root={other}"])
    assert evaluated.predictions.label.tolist() == [NAMES.index(name) for _, name, _ in rows[::-1][:5]]
    err = capsys.readouterr().err
    assert f"scored: the 5 images of the split eval of manifest {other}" in err
    assert "not used: extra" in err
    table(other, [(path, "cat") for path, *_ in shuffled], ("path", "label"))
    with pytest.raises(InputError, match=r"class 'cat' is no class of the training set"):
        open_labelled(Data(name="manifest", root=str(other)), NAMES)
