from hashlib import sha256
from pathlib import Path

import pytest
from pydantic import ValidationError

from ffds.methods.ldam import LDAM
from ffds.methods.reweighting import CrossEntropy
from ffds.recipes.load import load_recipe
from ffds.recipes.schema import Data, Model, Recipe, Trainer, keys_with
from ffds.run_directory import Run
from ffds.settings import Role, by_dotted_key, json_digest


@pytest.mark.parametrize("given", [32, "32", 16, "16", "bf16"])
def test_precision_needs_no_quotes(given):
    assert Trainer.model_validate({"precision": given}).precision == str(given)


@pytest.mark.parametrize("given", [True, 16.0, 64, None])
def test_but_nothing_else_is_a_precision(given):
    with pytest.raises(ValidationError):
        Trainer.model_validate({"precision": given})


def test_the_head_is_what_the_method_needs():
    data = Data(name="digits")
    assert Recipe(name="x", data=data, method=LDAM()).head == "cosine"
    assert Recipe(name="x", data=data, method=CrossEntropy()).head == "linear"
    assert Recipe(name="x", data=data, model=Model(head="cosine")).head == "cosine"


def test_a_loss_with_a_scale_of_its_own_gets_plain_cosines():
    model = Model(head="cosine", head_scale=25.0)
    assert Recipe(name="x", data=Data(name="digits"), model=model).head_scale == 25
    assert Recipe(name="x", data=Data(name="digits"), model=model, method=LDAM()).head_scale == 1


@pytest.mark.parametrize("setting", [{"head_scale": 25.0}, {"head_init": "class-means"}])
def test_settings_of_a_cosine_head_are_refused_on_a_linear_one(setting):
    (key,) = setting
    for head in ("auto", "linear"):
        with pytest.raises(ValidationError, match=f"model.{key} belongs to a cosine head"):
            Recipe(name="x", data=Data(name="digits"), model=Model(head=head, **setting))


def test_runs_made_earlier_keep_their_hash():
    """Once it counted the text of `data.root`: now it is the same wherever the images lie."""
    files = sorted((Path(__file__).parents[2] / "results").rglob("seed*-*/recipe.yaml"))
    assert len(files) >= 52
    for file in files:
        seed, _, digest = file.parent.name.partition("-")
        recipe = load_recipe(str(file)).recipe
        assert Run.of(recipe, file.parents[3]).path == file.parent
        assert f"seed{recipe.trainer.seed}" == seed, file
        assert digest in (recipe.earlier_hash[:8], recipe.config_hash[:8]), file
        assert recipe.data.root is not None or recipe.earlier_hash == recipe.config_hash
        nowhere = load_recipe(str(file), ["data.root=null"]).recipe
        assert recipe.config_hash == nowhere.config_hash == nowhere.earlier_hash


def test_roles_say_what_is_left_out_of_the_hash():
    neutral = {"data.in_memory", "data.workers", "data.cache"}
    neutral |= {"trainer.cuda_graphs", "trainer.checkpoint_every", "trainer.track"}
    assert keys_with(Role.NEUTRAL) == neutral
    assert neutral < keys_with(Role.LOADING, Role.RUNNING) < set(load_recipe("digits").recipe.by_key)
    recipe = load_recipe("digits").recipe
    added = keys_with(Role.ADDED)
    assert {"method.sampler", "data.images"} <= added
    assert set(by_dotted_key(recipe.identity)) == set(recipe.by_key) - neutral - added
    known = recipe.with_images(f"sha256:{'0' * 16}")
    assert known.identity == recipe.identity | {"data": known.identity["data"]}
    assert known.identity["data"] == recipe.identity["data"] | {"images": known.data.images}
    assert json_digest({"b": [1, "ü"], "a": None}) == sha256(b'{"a":null,"b":[1,"\\u00fc"]}').hexdigest()


def test_any_setting_changes_the_hash():
    hashes = {load_recipe("digits").recipe.config_hash}
    own = ("trainer.seed=1", "method.k=0.1", f"data.images=sha256:{'0' * 16}", "method=ce", "name=other")
    for override in (*own, "method.sampler=class-balanced"):
        hashes.add(load_recipe("digits", [override]).recipe.config_hash)
    assert len(hashes) == 7
    spellings = (load_recipe("digits", [f"optimizer.lr={text}"]).recipe for text in ("1", "1.0", "1.0e0"))
    assert len({recipe.config_hash for recipe in spellings} - hashes) == 1
