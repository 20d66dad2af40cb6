"""The generic proof: a run that stops and goes on, wherever and however often, ends as one that never did."""

import json

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from safetensors.torch import load_file
from torch import nn

from ffds.errors import Interrupted
from ffds.methods.registry import METHODS
from ffds.methods.reweighting import Custom
from ffds.run_directory import Run
from ffds.training.phases import phases
from tests.training import tiny

CASES = {method: (method, ()) for method in METHODS} | {
    "ffds without a cold start": ("ffds", ("method.cold_start=unsmoothed",)),
    "d-ffds that does not observe": ("d-ffds", ("method.observe=false",)),
    "d-ffds, mixed bfloat16": ("d-ffds", ("trainer.precision=bf16",)),
    "d-ffds, contiguous memory": ("d-ffds", ("trainer.channels_last=false",)),
    "ce, deterministic kernels": ("ce", ("trainer.deterministic=true",)),
    "ce, nesterov": ("ce", ("optimizer.nesterov=true",)),
    "ce without momentum": ("ce", ("optimizer.momentum=0.0",)),
    "ce, scored every third epoch": ("ce", ("trainer.eval_every=3",)),
}


def go_on_until_done(recipe, out, polls, **given):
    """Sessions of a few polls each; the number of sessions that were stopped."""
    for stopped in range(100):
        try:
            tiny.train(recipe, out, polls=polls, **given)
        except Interrupted:
            continue
        return stopped
    raise AssertionError("a hundred sessions and no end")


@pytest.mark.parametrize("case", CASES)
def test_stopped_at_every_third_poll(case, tmp_path):
    method, overrides = CASES[case]
    images = tiny.dataset(validation=case == "ce, nesterov")
    recipe = tiny.recipe(*overrides, method=method)
    whole = tiny.train(recipe, tmp_path / "whole", images=images)
    assert go_on_until_done(recipe, tmp_path / "parts", 3, images=images) >= tiny.EPOCHS
    assert tiny.trace(Run.of(recipe, tmp_path / "parts")) == tiny.trace(whole)


@pytest.mark.parametrize("polls", range(1, tiny.EPOCHS * tiny.POLLS + 1))
def test_stopped_once_anywhere(polls, tmp_path, d_ffds):
    recipe, whole = d_ffds
    with pytest.raises(Interrupted, match="SIGTERM"):
        tiny.train(recipe, tmp_path, polls=polls)
    run = Run.of(recipe, tmp_path)
    assert not run.done
    epochs, steps = divmod(polls - 1, tiny.POLLS)
    name = f"epoch-{epochs:04d}-step-{min(steps + 1, tiny.STEPS):05d}"
    newest = sorted(run.checkpoints.iterdir())[-1]
    assert newest.name == name
    if epochs == phases(recipe, tiny.COUNTS)[0].stop - 1 and steps == 1:
        kept = load_file(newest / "loss.safetensors")
        assert kept["rank0.observed.counts"].sum() == kept["rank0.epoch.total"].sum() == 64
        assert kept["rank0.1.group_means"].isnan().all()
        momentum = load_file(newest / "optimizer.safetensors")
        assert momentum
        assert all(tensor.abs().sum() > 0 for tensor in momentum.values())
    torch.manual_seed(polls)  # the caller's random numbers decide nothing
    tiny.train(recipe, tmp_path)
    assert tiny.trace(run) == tiny.trace(whole)


@pytest.mark.parametrize("every", [1, 3])
def test_up_to_an_epoch_and_on(every, tmp_path, d_ffds):
    recipe, whole = d_ffds
    recipe = tiny.recipe(f"trainer.checkpoint_every={every}")
    run = tiny.train(recipe, tmp_path, until=2)
    assert not run.done
    assert sorted(path.name for path in run.checkpoints.iterdir())[-1] == "epoch-0002"
    assert tiny.trace(tiny.train(recipe, tmp_path)) == tiny.trace(whole)


class Noisy(nn.Module):
    """Draws from torch's own generator and learns from the epoch before, as a user's loss may."""

    def __init__(self):
        super().__init__()
        self.register_buffer("level", torch.ones(()))
        self.register_buffer("gathered", torch.zeros(()))

    def forward(self, logits, target):
        self.observe(logits, target)
        return self.level * nn.functional.cross_entropy(logits + 0.1 * torch.randn_like(logits), target)

    def observe(self, logits, target):
        self.gathered += logits.detach().softmax(1).amax()

    def end_epoch(self):
        self.level.copy_(1 / self.gathered)
        self.gathered.zero_()


@pytest.mark.parametrize("polls", [2, 3, 5])
def test_a_loss_of_your_own(polls, tmp_path):
    recipe = tiny.recipe("schedule.epochs=3", method="ce").model_copy(update={"method": Custom(loss="noisy")})
    whole = tiny.train(recipe, tmp_path / "whole", loss=Noisy())
    for _ in range(20):
        try:
            parts = tiny.train(recipe, tmp_path / "parts", polls=polls, loss=Noisy())
            break
        except Interrupted:
            continue
    assert tiny.trace(parts) == tiny.trace(whole)


def with_loss_scaler(trainer):
    """Half precision as on a GPU, where Fabric on a CPU would quietly take bfloat16."""
    scaler = torch.amp.GradScaler(device="cpu", growth_interval=2, init_scale=1024.0)
    fabric = Fabric(accelerator="cpu", devices=1, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    fabric.launch()
    return fabric


def test_half_precision_with_its_loss_scale(tmp_path, monkeypatch):
    monkeypatch.setattr("ffds.training.train.launch_fabric", with_loss_scaler)
    recipe = tiny.recipe("trainer.precision=16", "schedule.epochs=2")
    whole = tiny.train(recipe, tmp_path / "whole")
    go_on_until_done(recipe, tmp_path / "parts", 2)
    parts = Run.of(recipe, tmp_path / "parts")
    assert tiny.trace(parts) == tiny.trace(whole)
    scales = [
        json.loads((run.checkpoints / "epoch-0002" / "state.json").read_text())["precision"]
        for run in (whole, parts)
    ]
    assert scales[0] == scales[1]
    assert scales[0]["scale"] > 1024.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["32", "bf16", "16"])
def test_on_a_gpu(precision, tmp_path):
    recipe = tiny.recipe(
        f"trainer.precision={precision}", "trainer.accelerator=cuda", "trainer.deterministic=true"
    )
    whole = tiny.train(recipe, tmp_path / "whole")
    go_on_until_done(recipe, tmp_path / "parts", 2)
    assert tiny.trace(Run.of(recipe, tmp_path / "parts")) == tiny.trace(whole)


@pytest.mark.filterwarnings("ignore:.*fp16 is not supported on CPU")
def test_half_precision_on_a_cpu_runs_as_bfloat16(tmp_path):
    recipe = tiny.recipe("trainer.precision=16", "trainer.accelerator=cpu", "schedule.epochs=2")
    whole = tiny.train(recipe, tmp_path / "whole")
    go_on_until_done(recipe, tmp_path / "parts", 3)
    assert tiny.trace(Run.of(recipe, tmp_path / "parts")) == tiny.trace(whole)
