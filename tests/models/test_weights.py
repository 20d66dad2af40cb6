"""Weights from files of every kind, into the network they belong to and no other; one message else."""

import json
import socket
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from ffds.cli import main
from ffds.errors import InputError
from ffds.models.build import build_model
from ffds.models.weights import read_weights
from ffds.recipes.load import load_recipe
from ffds.recipes.pretrained import sum_of_file
from ffds.recipes.schema import Model
from ffds.run_directory import Run
from tests.imagenet_weights import imagenet_weights, write_imagenet_weights
from tests.training import tiny


def build(name, num_classes=10, seed=0, **more):
    model = Model(name=name, **more)
    return build_model(model, head="linear", num_classes=num_classes, in_channels=3, seed=seed)


def prefixed(state, prefix):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def saved(file, content):
    (save_file if file.suffix == ".safetensors" else torch.save)(content, file)
    return str(file)


FILES = {
    "alone.pth": lambda state: state,
    "alone.safetensors": lambda state: state,
    "ddp.pt": lambda state: {"epoch": 3, "state_dict": prefixed(state, "module.")},
    "compiled.bin": lambda state: {"model": prefixed(state, "module._orig_mod.")},
    "lightning.pth": lambda state: {"state_dict": prefixed(state, "model.backbone."), "lr": 0.1},
    "averaged.pth": lambda state: {
        "state_dict": {name: torch.zeros_like(tensor) for name, tensor in state.items()},
        "state_dict_ema": state,
    },
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_same_weights(name, tmp_path, capsys):
    source = timm.create_model("test_resnet", num_classes=7)
    file = saved(tmp_path / name, FILES[name](source.state_dict()))
    network = build("timm/test_resnet", weights=file)
    for key, tensor in network.backbone.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[key])
    told = capsys.readouterr().err
    assert "note: left out of" in told
    assert "fc.weight" in told
    assert torch.equal(network.head.weight, build("timm/test_resnet").head.weight), "the head is the seed's"


@pytest.mark.parametrize("name", ["resnet20", "timm/test_vit", "timm/test_convnext"])
def test_a_network_takes_its_own_weights_and_the_head_where_it_is_alike(name, tmp_path, capsys):
    file = saved(tmp_path / "own.safetensors", build(name, seed=1).state_dict())
    same, other = build(name, weights=file), build(name, num_classes=4, weights=file)
    assert "left out" in capsys.readouterr().err
    source = build(name, seed=1).state_dict()
    assert all(torch.equal(tensor, source[key]) for key, tensor in same.state_dict().items())
    assert all(
        torch.equal(tensor, source[f"backbone.{key}"]) for key, tensor in other.backbone.state_dict().items()
    )
    assert torch.equal(other.head.weight, build(name, num_classes=4).head.weight)


OTHERS = [("resnet20", "resnet32"), ("resnet32", "resnet20"), ("resnet20", "timm/test_vit")]


@pytest.mark.parametrize(("own", "other"), OTHERS)
def test_weights_of_another_network_are_refused(own, other, tmp_path):
    """Also where all that the network needs is there, and a layer more."""
    file = saved(tmp_path / "other.safetensors", build(own).state_dict())
    with pytest.raises(
        InputError, match=rf"not the weights of {other}\n(.*\n)+.*(missing|not in the network)"
    ):
        build(other, weights=file)


def test_the_first_differing_names_of_both_sides_and_the_network_to_name(tmp_path):
    saved(tmp_path / "model.safetensors", timm.create_model("test_resnet").state_dict())
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_resnet"}))
    with pytest.raises(InputError) as caught:
        build("timm/test_vit", weights=str(tmp_path))
    for words in ("missing in the file: cls_token,", "not in the network: bn1.", "=timm/test_resnet"):
        assert words in str(caught.value)


def bad_files(tmp_path):
    whole = tmp_path / "whole.pth"
    torch.save({"weight": torch.zeros(100)}, whole)
    bad = {
        "page.pth": b"<!DOCTYPE html><html>login</html>",
        "pointer.safetensors": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "cut.pth": whole.read_bytes()[:300],
        "empty.pt": b"",
        "noise.safetensors": bytes(range(256)) * 8,
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    torch.save({"state_dict": None, "args": {}}, tmp_path / "without.pth")
    torch.save(timm.create_model("test_resnet"), tmp_path / "object.pth")
    return [*bad, "without.pth", "object.pth"]


def test_files_without_weights_give_one_message_each(tmp_path):
    words = {"page.pth": "HTML", "pointer.safetensors": "Git LFS", "object.pth": r"model\.state_dict\(\)"}
    for name in bad_files(tmp_path):
        with pytest.raises(InputError, match=rf"{words.get(name, 'weights')}"):
            read_weights(tmp_path / name)


class _Touch:
    """What runs code where it is unpickled."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


def test_weights_that_would_run_code_are_refused(tmp_path):
    hostile, canary = {"weight": torch.zeros(2), "more": _Touch(tmp_path / "canary")}, tmp_path / "canary"
    torch.save(hostile, tmp_path / "hostile.pth")
    with pytest.raises(InputError):
        read_weights(tmp_path / "hostile.pth")
    assert not canary.exists()
    torch.load(tmp_path / "hostile.pth", weights_only=False)  # the file is a danger to others
    assert canary.exists()


def test_directories_and_missing_files(tmp_path, capsys):
    for place, words in ((tmp_path, "a directory without weights"), (tmp_path / "no.pth", "no such weights")):
        assert main(["show", "digits", f"model.weights={place}"]) == 2
        assert words in capsys.readouterr().err
    for name in ("a.pth", "b.pth"):
        saved(tmp_path / name, {})
    assert main(["show", "digits", f"model.weights={tmp_path}"]) == 2
    assert "a.pth, b.pth" in capsys.readouterr().err


def test_the_content_of_the_file_is_the_identity_and_the_run_needs_it_no_more(tmp_path, monkeypatch):
    tiny.use(monkeypatch)
    short = "schedule.epochs=2"
    first = tiny.train(tiny.recipe(short, method="ce"), tmp_path / "first", until=1)
    moved = tmp_path / "moved.safetensors"
    (newest,) = first.checkpoints.glob("epoch-0001/model.safetensors")
    moved.write_bytes(newest.read_bytes())
    recipes = [tiny.recipe(short, f"model.weights={place}", method="ce") for place in (first.path, moved)]
    assert recipes[0].config_hash == recipes[1].config_hash != first.recipe.config_hash
    assert recipes[1].model.weights_sum == sum_of_file(moved)
    run = tiny.train(recipes[1], tmp_path, until=1)
    moved.unlink()
    again = load_recipe(str(run.path / "recipe.yaml")).recipe
    assert Run.of(again, tmp_path).path == run.path
    assert tiny.trace(tiny.train(again, tmp_path)) == tiny.trace(tiny.train(recipes[0], tmp_path / "whole"))
    assert main(["eval", str(run.path)]) == 0


def test_other_weights_in_the_same_place_are_refused(tmp_path):
    file = saved(tmp_path / "own.safetensors", build("resnet20").state_dict())
    model = load_recipe("digits", ["model.name=resnet20", f"model.weights={file}"]).recipe.model
    saved(tmp_path / "own.safetensors", build("resnet20", seed=1).state_dict())
    with pytest.raises(InputError, match="not the weights that the recipe knows"):
        build_model(model, head="linear", num_classes=10, in_channels=3, seed=0)


def test_weights_trained_on_imagenet(tmp_path):
    file = write_imagenet_weights(tmp_path / "imagenet.safetensors")
    network, source = build("timm/tf_efficientnet_lite0", weights=str(file)), imagenet_weights()
    assert torch.equal(network.backbone.conv_head.weight, source["conv_head.weight"])


def test_without_a_network_the_hub_is_given_up_at_once(tmp_path, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        tried = []
        monkeypatch.setattr(timm, "create_model", lambda *given, **how: tried.append(given))
        with pytest.raises(InputError, match=r"cannot be had(.|\n)*model\.weights=FILE"):
            build("timm/resnet18", pretrained=True)
    assert not tried, "the hub's own client would try again and again"
