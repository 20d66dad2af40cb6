"""What a network wants of its images stands as numbers in the recipe, with the place that it comes from."""

import json

import pytest
import torch
from safetensors.torch import save_file

from ffds.errors import InputError
from ffds.recipes.load import dump_recipe, load_recipe, override_texts
from ffds.training.train import train_recipe
from tests.training import tiny

WANTED = {
    # Of timm's configuration: input_size, crop_pct, mean, std.
    "timm/tf_efficientnet_lite0": (224, 256, (0.5,) * 3, (0.5,) * 3),
    "timm/resnet18": (224, 235, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "timm/test_vit": (160, 168, (0.5,) * 3, (0.5,) * 3),
}


def written(tmp_path, text, *overrides):
    file = tmp_path / "own.yaml"
    file.write_text(f"data: {{name: folder, root: here}}\n{text}")
    return load_recipe(str(file), overrides)


def wants(data):
    return data.image_size, data.eval_resize, data.mean, data.std


@pytest.mark.parametrize("name", WANTED)
def test_a_pretrained_network_gives_what_the_recipe_leaves_open(name, tmp_path):
    found = written(tmp_path, f"model: {{name: {name}, pretrained: true}}")
    assert wants(found.recipe.data) == WANTED[name]
    assert found.origin["data.mean"] == found.origin["data.eval_resize"] == name
    by_word = [f"data.{key}=model" for key in ("mean", "std", "image_size", "eval_resize")]
    scratch = written(tmp_path, f"model: {{name: {name}}}", *by_word).recipe
    assert wants(scratch.data) == WANTED[name]
    other = written(tmp_path, f"model: {{name: {name}, pretrained: true}}", "data.image_size=96").recipe
    assert wants(other.data)[:2] == (96, 109 if "lite0" in name else 101)  # ⌊96 / 0.875⌋, ⌊96 / 0.95⌋
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
    assert wants(written(tmp_path, text, *given).recipe.data) == (None, None, (0.1, 0.2, 0.3), (1, 1, 1))
    scratch = written(tmp_path, "model: {name: timm/resnet18}")
    assert wants(scratch.recipe.data) == (None, None, (0.5,), (0.25,))
    assert scratch.origin["data.mean"] == "default"


def test_a_network_that_does_not_say_is_named_with_the_place(tmp_path):
    with pytest.raises(InputError, match=r"does not say data\.mean\n  where:   own.*|command line\n"):
        written(tmp_path, "model: {name: resnet20}", "data.mean=model")


def test_of_a_directory_for_the_hub_and_of_a_run(tmp_path):
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    config = {"input_size": [3, 64, 64], "crop_pct": 0.5, "mean": [0.1] * 3, "std": [0.2] * 3}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18", "pretrained_cfg": config}))
    found = written(tmp_path, f"model: {{name: timm/resnet18, weights: {tmp_path}}}")
    assert wants(found.recipe.data) == (64, 128, (0.1,) * 3, (0.2,) * 3)
    assert found.origin["data.std"] == str(tmp_path / "config.json")
    images = {"data.mean": [0.3], "data.std": [0.4], "data.image_size": 12}
    short = ["schedule.epochs=1", *override_texts(images)]
    run = train_recipe(tiny.recipe(*short, method="ce"), out=tmp_path, dataset=tiny.dataset(), shown=False)
    found = written(tmp_path, f"model: {{name: resnet20, weights: {run.path}}}")
    assert wants(found.recipe.data) == (12, None, (0.3,), (0.4,))
