"""What a network wants of its images stands as numbers in the recipe, with the place that it comes from."""

import json

import pytest
import torch
from safetensors.torch import save_file

from ffds.cli import main
from ffds.errors import InputError
from ffds.recipes.load import dump_recipe, load_recipe, override_texts
from ffds.recipes.preprocessing import KEYS
from ffds.training.train import train_recipe
from tests.training import tiny

WANTED = {
    # Of timm's configuration: input_size, crop_pct, mean, std, interpolation.
    "timm/tf_efficientnet_lite0": (224, 256, (0.5,) * 3, (0.5,) * 3, "bicubic"),
    "timm/resnet18": (224, 235, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic"),
    "timm/test_vit": (160, 168, (0.5,) * 3, (0.5,) * 3, "bicubic"),
    "timm/resnet50.tv_in1k": (224, 256, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear"),
}


def written(tmp_path, text, *overrides):
    file = tmp_path / "own.yaml"
    file.write_text(f"data: {{name: folder, root: here}}\n{text}")
    return load_recipe(str(file), overrides)


def wants(data):
    return data.image_size, data.eval_resize, data.mean, data.std, data.interpolation


@pytest.mark.parametrize("name", WANTED)
def test_a_pretrained_network_gives_what_the_recipe_leaves_open(name, tmp_path):
    found = written(tmp_path, f"model: {{name: {name}, pretrained: true}}")
    assert wants(found.recipe.data) == WANTED[name]
    assert found.origin["data.mean"] == found.origin["data.eval_resize"] == name
    by_word = [f"data.{key}=model" for key in KEYS]
    scratch = written(tmp_path, f"model: {{name: {name}}}", *by_word).recipe
    assert wants(scratch.data) == WANTED[name]
    other = written(tmp_path, f"model: {{name: {name}, pretrained: true}}", "data.image_size=96").recipe
    assert wants(other.data)[:2] == (96, 109 if WANTED[name][1] == 256 else 101)  # ⌊96 / 0.875⌋, ⌊96 / 0.95⌋
    (tmp_path / "again.yaml").write_text(dump_recipe(found.recipe))
    assert load_recipe(str(tmp_path / "again.yaml")).recipe == found.recipe


def test_what_is_written_counts_and_a_network_from_scratch_wants_nothing(tmp_path):
    text = "model: {name: timm/resnet18, pretrained: true}"
    given = (
        "data.mean=[0.1, 0.2, 0.3]",
        "data.std=[1, 1, 1]",
        "data.image_size=null",
        "data.eval_resize=null",
    )
    own = (None, None, (0.1, 0.2, 0.3), (1, 1, 1))
    assert wants(written(tmp_path, text, *given).recipe.data) == (*own, "bilinear")
    assert wants(written(tmp_path, text, *given, "data.interpolation=model").recipe.data) == (*own, "bicubic")
    scratch = written(tmp_path, "model: {name: timm/resnet18}")
    assert wants(scratch.recipe.data) == (None, None, (0.5,), (0.25,), "bilinear")
    assert scratch.origin["data.mean"] == "default"


def test_a_run_older_than_the_interpolation_is_the_same_run(tmp_path):
    text = dump_recipe(load_recipe("own-folder", ["data.root=here"]).recipe)
    older = text.replace("  interpolation: bilinear\n", "")
    assert older != text
    (tmp_path / "recipe.yaml").write_text(older)
    found = load_recipe(str(tmp_path / "recipe.yaml"))
    assert (found.recipe.data.interpolation, found.origin["data.interpolation"]) == ("bilinear", "default")
    assert found.recipe.config_hash == load_recipe("own-folder").recipe.config_hash


def test_show_says_where_the_interpolation_comes_from(tmp_path, capsys):
    file = tmp_path / "own.yaml"
    file.write_text("data: {name: folder, root: here}\nmodel: {name: timm/resnet18, pretrained: true}")
    assert main(["show", str(file)]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "interpolation" in line)
    assert line.split()[-2:] == ["bicubic", "timm/resnet18"]
    assert main(["show", str(file), "data.interpolation=nearest"]) == 2
    assert "allowed: one of bilinear, bicubic" in capsys.readouterr().err


def test_a_network_that_does_not_say_is_named_with_the_place(tmp_path):
    with pytest.raises(InputError, match=r"does not say data\.mean\n  where:   own.*|command line\n"):
        written(tmp_path, "model: {name: resnet20}", "data.mean=model")


def test_of_a_directory_for_the_hub_and_of_a_run(tmp_path):
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    config = {"input_size": [3, 64, 64], "crop_pct": 0.5, "mean": [0.1] * 3, "std": [0.2] * 3}
    config["interpolation"] = "bilinear"
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18", "pretrained_cfg": config}))
    found = written(tmp_path, f"model: {{name: timm/resnet18, weights: {tmp_path}}}")
    assert wants(found.recipe.data) == (64, 128, (0.1,) * 3, (0.2,) * 3, "bilinear")
    assert found.origin["data.std"] == str(tmp_path / "config.json")
    images = {"data.mean": [0.3], "data.std": [0.4], "data.image_size": 12, "data.interpolation": "bicubic"}
    short = ["schedule.epochs=1", *override_texts(images)]
    run = train_recipe(tiny.recipe(*short, method="ce"), out=tmp_path, dataset=tiny.dataset(), shown=False)
    found = written(tmp_path, f"model: {{name: resnet20, weights: {run.path}}}")
    assert wants(found.recipe.data) == (12, None, (0.3,), (0.4,), "bicubic")
