"""Adapted networks in training: only what is named changes, a stopped run goes on, two ranks do the same."""

import pytest
import torch
from safetensors.torch import load_file

from ffds.models.build import build_model
from ffds.training.checkpoint import Checkpoints
from tests.training import processes, tiny
from tests.training.test_resume import check_parts

COUNTS = [4, 3, 2]
SETTINGS = (
    "data.cut=null",
    "schedule.epochs=2",
    "schedule.frozen_epochs=1",
    "trainer.batch_size=4",
    "optimizer.lr=0.01",
)
VIT = ("model.name=timm/test_vit", "data.image_size=160", "data.augment=[]", "data.cache=false")
MEANS = ("model.head=cosine", "model.head_scale=25", "model.head_init=class-means")
CASES = {
    "adaptformer": (*VIT, *MEANS, "model.adapt=adaptformer", "trainer.ema=0.5"),
    "lora": (*VIT, "model.adapt=lora", "optimizer.name=adamw", "optimizer.layer_decay=0.9"),
    "norm": ("model.adapt=norm", "trainer.clip_norm=1"),
    "bias": ("model.adapt=bias", *MEANS),
}


def recipe(case):
    return tiny.recipe(*SETTINGS, *CASES[case], method="ce")


def images():
    return tiny.dataset(COUNTS, of_test=1)


def trained(run):
    """Names of what has changed, of the kept network; and of what is in the optimizer's state."""
    one = run.recipe
    begun = build_model(
        one.model, head=one.head, num_classes=3, in_channels=1, seed=0, head_scale=one.head_scale
    ).state_dict()
    newest = sorted(run.checkpoints.iterdir())[-1]
    reached, state = load_file(newest / "model.safetensors"), load_file(newest / "optimizer.safetensors")
    changed = {name for name, tensor in begun.items() if not torch.equal(tensor, reached[name])}
    return changed, {name.rpartition(".")[0] for name in state if not name.endswith(".trained")}


@pytest.mark.parametrize("case", CASES)
def test_only_what_is_named_changes_and_a_stopped_run_goes_on(case, tmp_path):
    whole, _ = check_parts(recipe(case), tmp_path, polls=5, images=images())
    changed, updated = trained(whole)
    network = build_model(whole.recipe.model, head=whole.recipe.head, num_classes=3, in_channels=1, seed=0)
    named = {f"backbone.{name}" for name, one in network.backbone.named_parameters() if one.requires_grad}
    named |= {f"head.{name}" for name, _ in network.head.named_parameters()}
    assert updated == named
    statistics = {name for name in changed if "running_" in name or "num_batches" in name}
    assert bool(statistics) == (case == "norm")
    assert changed - statistics <= named
    assert any(name.startswith("backbone.") for name in changed)
    sizes = {name: whole.environment[name] for name in ("parameters", "trained_parameters")}
    counted = [sum(one.numel() for name, one in network.named_parameters() if name in named)]
    assert sizes == {
        "parameters": sum(p.numel() for p in network.parameters()),
        "trained_parameters": counted[0],
    }


def _rank(rank, out):
    tiny.train(recipe("bias"), out, images=images())
    return 0


def test_two_ranks_train_the_same_parameters(tmp_path):
    ranks = processes.ranks(_rank, tmp_path / "two", log=tmp_path / "log")
    assert [processes.exit_code(rank) for rank in ranks] == [0, 0], (tmp_path / "log-rank0").read_text()
    (two,) = (tmp_path / "two").glob("digits/ce/*")
    one = tiny.train(recipe("bias"), tmp_path / "one", images=images())
    of_two, of_one = (Checkpoints(path / "checkpoints").kept().model for path in (two, one.path))
    torch.testing.assert_close(of_two, of_one, rtol=1e-3, atol=1e-5)
