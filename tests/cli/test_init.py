"""The verb init: from a directory of images to a recipe that trains, in commands as a user types them."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ffds.cli import main
from ffds.recipes.first_recipe import OwnImages, first_recipe, recipe_name
from ffds.recipes.load import load_recipe
from tests.data.pictures import write_folder, write_picture


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def test_from_a_folder_to_a_trained_network(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_folder(here / "my photos, 2", {"a, b": 30, "犬": 12, "c": 4}, {"a, b": 5, "犬": 5, "c": 2})
    (root / "train" / "c" / "broken.jpg").write_bytes(b"no image")
    assert main(["init", "my photos, 2"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for words in ("a, b", "tail, few", "warning: 1 image cannot be read (left out): train/c/broken.jpg"):
        assert words in out
    assert out.endswith("written: my-photos-2.yaml\nnext:    ffds train my-photos-2.yaml\n")
    resolved = load_recipe("my-photos-2.yaml")
    recipe = resolved.recipe
    assert (recipe.name, recipe.data.name, recipe.data.root) == ("my-photos-2", "folder", "my photos, 2")
    assert (recipe.data.on_bad_image, recipe.method.name) == ("skip", "d-ffds")
    text = Path("my-photos-2.yaml").read_text(encoding="utf-8")
    settings = [line for line in text.splitlines() if ": " in line and not line.startswith("#")]
    assert all("# " in line for line in settings if "<<" not in line), "each setting says why"
    assert main(["train", "my-photos-2.yaml", "schedule.epochs=2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["epochs"] == 2

    assert main(["init", "my photos, 2"]) == 2
    err = capsys.readouterr().err
    assert "my-photos-2.yaml" in err
    assert "--out FILE" in err
    assert Path("my-photos-2.yaml").read_text(encoding="utf-8") == text
    assert main(["init", "my photos, 2", "--out", "other.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"] == "other.yaml"
    assert load_recipe("other.yaml").recipe.name == "other"


@pytest.mark.parametrize("table", ["labels.csv", "metadata.csv", "train.parquet"])
def test_the_layout_is_recognised(table: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [write_picture(here / "x" / "files" / f"{k} ü.png", k, (70, 60)) for k in range(8)]
    if table == "train.parquet":
        images = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
        pq.write_table(pa.table({"image": images, "label": list("abababab")}), here / "x" / table)
    else:
        rows = [f'files/{file.name},"{"ab"[k % 2]}, c"' for k, file in enumerate(files)]
        (here / "x" / table).write_text("\n".join(["file_name,label", *rows]), encoding="utf-8")
    assert main(["init", "x/labels.csv" if table == "labels.csv" else "x", "--out", "r.yaml"]) == 0
    assert "too few images" in capsys.readouterr().err
    data = load_recipe("r.yaml").recipe.data
    assert data.name == ("parquet" if table == "train.parquet" else "manifest")
    assert main(["data", "info", "r.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["class_counts"] == [3, 3]


def test_nothing_is_written_where_there_is_nothing_to_train_on(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_picture(here / "one" / "a" / "1.png", 1, (9, 9))
    write_picture(here / "bare" / "a" / "1.png", 1, (9, 9))
    for directory in ("bare/b", "empty", "bad/a", "bad/b"):
        (here / directory).mkdir(parents=True, exist_ok=True)
    (here / "bad" / "a" / "1.jpg").write_bytes(b"no image")
    before = sorted(here.rglob("*"))
    for name, words in (
        ("one", "a single class"),
        ("bare", "1 of 2 classes have no training image"),
        ("bad", "2 of 2 classes have no training image"),
        ("empty", "no class directories"),
        ("absent", "No such file or directory"),
    ):
        assert main(["init", name]) == 2
        out, err = capsys.readouterr()
        assert (out, words in err) == ("", True), err
    assert main(["init", "one", "--out", "recipe.txt"]) == 2
    assert main(["init", "one", "--out", "one"]) == 2
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("short_side", [8, 47, 48, 100, 160, 3000])
@pytest.mark.parametrize(
    "counts",
    [(1, 1), (3, 2, 1), (30, 20), (900, 40, 9) * 4, (5000, 3, 1) * 30],
    ids=str,
)
def test_every_recipe_loads_and_fits(counts: tuple[int, ...], short_side: int, gpu: bool, here: Path) -> None:
    for own in (False, True):
        unreadable = 3 * own
        images = OwnImages("folder", "a: #b", counts, own, own, short_side, unreadable)
        Path("r.yaml").write_text(first_recipe(images, name="r", file="r.yaml", gpu=gpu), encoding="utf-8")
        for method in ("d-ffds", "ffds", "ce"):
            recipe = load_recipe("r.yaml", method=method).recipe
            assert recipe.data.root == "a: #b"
            assert recipe.data.image_size in (32, 128, 224)
            assert method == "ce" or recipe.method.model_dump()["num_groups"] <= len(counts)
            validated = own or recipe.data.validation > 0
            assert recipe.trainer.keep == ("best" if validated else "last")
            if recipe.model.pretrained:
                assert recipe.data.mean == (0.485, 0.456, 0.406), "the network's own, in numbers"
                assert "trivialaugment" in recipe.data.augment
        held = sum(round(count * recipe.data.validation) for count in counts)
        assert not held or held >= 10
        assert not (own and held)


def test_any_text_becomes_a_name_of_a_recipe() -> None:
    names = [recipe_name(text) for text in ("", "..", "犬 photos", "a" * 300, "x/../y", "-a-", "Ünder_score")]
    assert names == ["my-images", "my-images", "photos", "a" * 100, "x-..-y", "a", "nder_score"]
