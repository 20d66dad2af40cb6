"""The generic proof: a run that stops and goes on, wherever and however often, ends as one that never did."""

import json

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from safetensors.torch import load_file
from torch import nn

import ffds.training.train as training
from ffds.errors import Interrupted
from ffds.methods.registry import METHODS
from ffds.run_directory import Run
from ffds.training.phases import phases
from ffds.training.train import train, train_recipe
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


def go_on_until_done(recipe, out, polls, patch, loss=None):
    """Sessions of a few polls each; the number of sessions that were stopped."""
    tiny.stop_after(patch, polls)
    for stopped in range(100):
        try:
            train_recipe(recipe, out=out, loss=loss, shown=False)
        except Interrupted:
            continue
        return stopped
    raise AssertionError("a hundred sessions and no end")


@pytest.mark.parametrize("case", CASES)
def test_stopped_at_every_third_poll(case, tmp_path, monkeypatch):
    method, overrides = CASES[case]
    tiny.use(monkeypatch, tiny.dataset(validation=case == "ce, nesterov"))
    recipe = tiny.recipe(*overrides, method=method)
    whole = train_recipe(recipe, out=tmp_path / "whole", shown=False)
    stopped = go_on_until_done(recipe, tmp_path / "parts", 3, monkeypatch)
    assert stopped >= tiny.EPOCHS
    assert tiny.trace(Run.of(recipe, tmp_path / "parts")) == tiny.trace(whole)


@pytest.mark.parametrize("polls", range(1, tiny.EPOCHS * tiny.POLLS + 1))
def test_stopped_once_anywhere(polls, tmp_path, monkeypatch, d_ffds):
    recipe, whole = d_ffds
    tiny.use(monkeypatch)
    tiny.stop_after(monkeypatch, polls)
    with pytest.raises(Interrupted, match="SIGTERM"):
        train_recipe(recipe, out=tmp_path, shown=False)
    run = Run.of(recipe, tmp_path)
    assert not run.done
    epochs, steps = divmod(polls - 1, tiny.POLLS)
    name = f"epoch-{epochs:04d}-step-{min(steps + 1, tiny.STEPS):05d}"
    assert sorted(path.name for path in run.checkpoints.iterdir())[-1] == name
    monkeypatch.undo()
    tiny.use(monkeypatch)
    train_recipe(recipe, out=tmp_path, shown=False)
    assert tiny.trace(run) == tiny.trace(whole)


def test_a_stop_in_the_observed_epoch_keeps_what_was_observed(tmp_path, monkeypatch):
    recipe = tiny.recipe()
    observed = phases(recipe, tiny.COUNTS)[0].stop - 1
    tiny.use(monkeypatch)
    tiny.stop_after(monkeypatch, observed * tiny.POLLS + 2)
    with pytest.raises(Interrupted):
        train_recipe(recipe, out=tmp_path, shown=False)
    newest = Run.of(recipe, tmp_path).checkpoints / f"epoch-{observed:04d}-step-00002"
    kept = load_file(newest / "loss.safetensors")
    assert kept["rank0.observed.counts"].sum() == 64
    assert kept["rank0.epoch.total"].sum() == 64
    assert kept["rank0.1.group_means"].isnan().all()
    momentum = load_file(newest / "optimizer.safetensors")
    assert momentum
    assert all(tensor.abs().sum() > 0 for tensor in momentum.values())


def test_resuming_does_not_hang_on_what_the_caller_did(tmp_path, monkeypatch, d_ffds):
    recipe, whole = d_ffds
    tiny.use(monkeypatch)
    for polls in (6, 3, 100):
        torch.manual_seed(polls)
        torch.rand(polls)
        tiny.stop_after(monkeypatch, polls)
        try:
            run = train_recipe(recipe, out=tmp_path, shown=False)
        except Interrupted:
            continue
    assert tiny.trace(run) == tiny.trace(whole)


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
def test_a_loss_of_your_own(polls, tmp_path, monkeypatch):
    tiny.use(monkeypatch)
    overrides = dict(text.split("=") for text in tiny.SETTINGS) | {"schedule.epochs": 3}
    overrides["trainer.batch_size"] = 32
    loss = Noisy()
    given = {"overrides": overrides, "loss": loss, "shown": False}
    whole = train("digits", out=tmp_path / "whole", **given)
    tiny.stop_after(monkeypatch, polls)
    for _ in range(20):
        try:
            parts = train("digits", out=tmp_path / "parts", **given)
            break
        except Interrupted:
            continue
    assert tiny.trace(parts) == tiny.trace(whole)
    assert loss.level == 1, "the caller's own loss is not the one that is trained"


def with_loss_scaler(trainer):
    """Half precision as on a GPU, where Fabric on a CPU would quietly take bfloat16."""
    scaler = torch.amp.GradScaler(device="cpu", growth_interval=2, init_scale=1024.0)
    fabric = Fabric(accelerator="cpu", devices=1, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    fabric.launch()
    return fabric


def test_half_precision_with_its_loss_scale(tmp_path, monkeypatch):
    tiny.use(monkeypatch)
    monkeypatch.setattr(training, "launch_fabric", with_loss_scaler)
    recipe = tiny.recipe("trainer.precision=16", "schedule.epochs=2")
    whole = train_recipe(recipe, out=tmp_path / "whole", shown=False)
    go_on_until_done(recipe, tmp_path / "parts", 2, monkeypatch)
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
def test_on_a_gpu(precision, tmp_path, monkeypatch):
    tiny.use(monkeypatch)
    recipe = tiny.recipe(
        f"trainer.precision={precision}", "trainer.accelerator=cuda", "trainer.deterministic=true"
    )
    whole = train_recipe(recipe, out=tmp_path / "whole", shown=False)
    go_on_until_done(recipe, tmp_path / "parts", 2, monkeypatch)
    assert tiny.trace(Run.of(recipe, tmp_path / "parts")) == tiny.trace(whole)


def test_half_precision_on_a_cpu_runs_as_bfloat16(tmp_path, monkeypatch):
    tiny.use(monkeypatch)
    recipe = tiny.recipe("trainer.precision=16", "trainer.accelerator=cpu", "schedule.epochs=2")
    with pytest.warns(UserWarning, match="fp16 is not supported on CPU"):
        whole = train_recipe(recipe, out=tmp_path / "whole", shown=False)
    with pytest.warns(UserWarning, match="fp16 is not supported on CPU"):
        go_on_until_done(recipe, tmp_path / "parts", 3, monkeypatch)
    assert tiny.trace(Run.of(recipe, tmp_path / "parts")) == tiny.trace(whole)
