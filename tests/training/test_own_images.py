"""A run of your own images: the same ones anywhere are the same run, other ones in the same place are not."""

import json
import shutil

import pytest

from ffds.cli import main
from ffds.data import open_dataset
from ffds.data.content import knowing_images
from ffds.errors import InputError, Interrupted
from ffds.jobs.plan import plan
from ffds.recipes.load import dump_recipe, load_recipe
from ffds.run_directory import Run
from ffds.training.train import train
from tests.data.pictures import write_folder, write_picture
from tests.training import tiny

SMALL = {
    **{"data.image_size": 8, "data.eval_resize": 8, "model.name": "resnet8", "model.pretrained": False},
    **{"schedule.epochs": 2, "trainer.batch_size": 8, "trainer.accelerator": "cpu"},
}


def own(root, out, recipe="own-folder", **more):
    given = SMALL | {"data.root": root} if recipe == "own-folder" else {}
    return train(recipe, method="ce", overrides=given | more, out=out, shown=False)


def test_your_own_images_are_the_run(tmp_path, monkeypatch):
    """Other images in the same place are never answered with old results; the same ones elsewhere are."""
    root, out = write_folder(tmp_path / "photos", {"a": 8, "b": 4}, {"a": 3, "b": 3}), tmp_path / "runs"
    run = own(root, out)
    assert run.recipe.data.images.startswith("sha256:")
    left = {path: path.read_bytes() for path in run.path.rglob("*.*") if path.is_file()}
    shutil.copytree(root, tmp_path / "moved" / "here")
    monkeypatch.chdir(tmp_path / "moved")
    assert own("here", out) == own(tmp_path / "moved/here", out) == run
    assert {path: path.read_bytes() for path in left} == left, "the same run, done already"
    for file in root.glob("*/*/*.jpg"):
        write_picture(file, 99)
    other = own(root, out)
    assert other.done
    assert other.path.parent == run.path.parent
    assert other.path != run.path
    assert own(None, out, str(run.path / "recipe.yaml")) == run, "what it asks for is what was trained"


def test_a_stopped_run_never_goes_on_with_other_images(tmp_path, monkeypatch):
    root, out = write_folder(tmp_path / "photos", {"a": 8, "b": 4}, {"a": 3, "b": 3}), tmp_path / "runs"
    with monkeypatch.context() as patch:
        tiny.stop_after(patch, 1)
        with pytest.raises(Interrupted):
            own(root, out)
    (stopped,) = (Run(path.parent) for path in out.rglob("recipe.yaml"))
    for file in root.glob("test/*/*.jpg"):
        file.unlink()
    with pytest.raises(InputError, match="not the images that the recipe knows") as caught:
        own(None, out, str(stopped.path / "recipe.yaml"))
    assert str(root) in str(caught.value)
    anew = own(root, out)
    assert len(anew.metrics) == 2
    assert anew.path.parent == stopped.path.parent
    assert not stopped.metrics
    assert not stopped.done


def test_a_run_of_an_earlier_version_goes_on_in_its_directory(tmp_path, monkeypatch, capsys):
    """Its hash counted the text of the root, its checkpoint files by name and size, and no test images."""
    root, out = write_folder(tmp_path / "photos", {"a": 8, "b": 4}, {"a": 3, "b": 3}), tmp_path / "runs"
    whole = own(root, tmp_path / "whole")
    earlier = Run.of(whole.recipe, out).path.with_name(f"seed0-{whole.recipe.earlier_hash[:8]}")
    dataset = open_dataset(whole.recipe.data)
    with monkeypatch.context() as patch:
        tiny.stop_after(patch, 3)
        with pytest.raises(Interrupted):
            own(root, out)
    Run.of(whole.recipe, out).path.rename(earlier)
    known, identity = whole.recipe, {"recipe": whole.recipe.earlier_identity, **dataset.earlier_identity}

    def as_it_was():
        (earlier / "recipe.yaml").write_text(dump_recipe(known.with_images(None)))
        for manifest in earlier.glob("checkpoints/*/manifest.json"):
            content = json.loads(manifest.read_text()) | {"identity": identity}
            del content["sha256"]
            manifest.write_text(json.dumps(content))

    as_it_was()
    run = own(root, out)
    assert run.path == earlier
    assert tiny.trace(run) == tiny.trace(whole)
    as_it_was()
    assert own(root, out) == run
    later = write_folder(tmp_path / "others", {"a": 8, "b": 5}, {"a": 3, "b": 3})
    shutil.rmtree(root)
    later.rename(root)
    with pytest.raises(InputError, match=r"done, but on other images(.|\n)*training images \w{16} now"):
        own(root, out)
    settings = [*(f"{key}={json.dumps(value)}" for key, value in SMALL.items()), f"data.root={root}"]
    assert main(["train", "own-folder", "method=ce", "--out", str(out), *settings]) == 2
    assert "done, but on other images" in capsys.readouterr().err
    recipe = knowing_images(load_recipe("own-folder", settings, method="ce").recipe)
    assert list(plan([recipe], out).failures) == [earlier]
