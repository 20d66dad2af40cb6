"""The generic proof: a run that stops and goes on, wherever and however often, ends as one that never did."""

import json
import shutil
import time
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from safetensors.torch import load_file
from torch import nn

from ffds.errors import InputError, Interrupted
from ffds.methods.registry import METHODS
from ffds.run_directory import Run
from ffds.training.checkpoint import Checkpoints
from ffds.training.phases import phases
from tests import full_disk
from tests.training import tiny

ADAMW = ("optimizer.name=adamw", "optimizer.lr=0.01", "optimizer.layer_decay=0.8", "optimizer.head_lr=0.02")
ADAMW += ("schedule.shape=cosine",)
STRONG = "data.augment=[trivialaugment,random-erasing]"
BALANCED = "method.sampler=class-balanced"
FINE_TUNED = ("trainer.ema=0.9", "trainer.clip_norm=0.5", "trainer.accumulate=3")
CASES = {method: (method, ()) for method in tiny.KINDS} | {
    "ffds without a cold start": ("ffds", ("method.cold_start=unsmoothed",)),
    "d-ffds that does not observe": ("d-ffds", ("method.observe=false",)),
    "d-ffds, mixed bfloat16": ("d-ffds", ("trainer.precision=bf16",)),
    "d-ffds, contiguous memory": ("d-ffds", ("trainer.channels_last=false",)),
    "ce, deterministic kernels": ("ce", ("trainer.deterministic=true",)),
    "ce, nesterov": ("ce", ("optimizer.nesterov=true",)),
    "ce, AdamW, each layer at its own rate": ("ce", ADAMW),
    "d-ffds, averaged, clipped and in parts": ("d-ffds", FINE_TUNED),
    "ce without momentum": ("ce", ("optimizer.momentum=0.0",)),
    "cdb, scored every third epoch": ("cdb", ("trainer.eval_every=3", "trainer.ema=0.9")),
    "ce, scored every third epoch": ("ce", ("trainer.eval_every=3",)),
    "d-ffds, mixup and CutMix": ("d-ffds", ("data.mixup=0.4", "data.cutmix=1", BALANCED, STRONG)),
    "ce, half precision on a CPU, which runs as bfloat16": ("ce", ("trainer.precision=16",)),
}


def check_parts(recipe, out, polls=3, loss=lambda: None, **given):
    """Sessions of a few polls each end as one session does; the whole run, and the one in parts."""
    whole = tiny.train(recipe, out / "whole", loss=loss(), **given)
    for _ in range(100):
        with suppress(Interrupted):
            parts = tiny.train(recipe, out / "parts", polls=polls, loss=loss(), **given)
            break
    assert tiny.trace(parts) == tiny.trace(whole)
    return whole, parts


@pytest.mark.filterwarnings("ignore:.*fp16 is not supported on CPU")
@pytest.mark.parametrize("case", CASES)
def test_stopped_at_every_third_poll(case, tmp_path):
    method, overrides = CASES[case]
    images = tiny.dataset(validation=case == "ce, nesterov" or bool(METHODS[method].needs))
    check_parts(tiny.recipe(*overrides, "trainer.accelerator=cpu", method=method), tmp_path, images=images)


@pytest.mark.parametrize("polls", range(1, tiny.EPOCHS * tiny.POLLS + 1, 3))
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


@pytest.mark.parametrize(("loss", "polls"), [(Noisy, 2), (Noisy, 5), (tiny.Scaled, 2)])
def test_a_loss_of_your_own(loss, polls, tmp_path):
    check_parts(tiny.own("schedule.epochs=3"), tmp_path, polls, loss)


def with_loss_scaler(trainer):
    """Half precision as on a GPU, where Fabric on a CPU would quietly take bfloat16."""
    scaler = torch.amp.GradScaler(device="cpu", growth_interval=2, init_scale=1024.0)
    fabric = Fabric(accelerator="cpu", devices=1, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    fabric.launch()
    return fabric


@pytest.mark.parametrize("settings", [(), FINE_TUNED])
def test_half_precision_with_its_loss_scale(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("ffds.training.train.launch_fabric", with_loss_scaler)
    recipe = tiny.recipe("trainer.precision=16", "schedule.epochs=2", *settings)
    states = [run.checkpoints / "epoch-0002" / "state.json" for run in check_parts(recipe, tmp_path, 2)]
    scales = [json.loads(state.read_text())["precision"] for state in states]
    assert scales[0] == scales[1]
    assert scales[0]["scale"] > 1024.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["32", "bf16", "16"])
def test_on_a_gpu(precision, tmp_path):
    settings = ("trainer.accelerator=cuda", "trainer.deterministic=true", f"trainer.precision={precision}")
    check_parts(tiny.recipe(*settings), tmp_path, 2)


FULL = {"amid a checkpoint": 170, "amid the second": 1324, "at the results": 20_000}


@pytest.mark.parametrize("when", FULL)
def test_a_full_disk_ends_a_run_with_one_message_and_it_goes_on(when, tmp_path, d_ffds):
    recipe, whole = d_ffds
    filler = tmp_path / "disk" / "filler"

    def after_epoch(entry):
        if when == "at the results" and entry["epoch"] == tiny.EPOCHS:
            with suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))

    with full_disk.small_disk(tmp_path / "disk", FULL[when]) as remount:
        with pytest.raises(InputError, match=r"disk full .* [\d,]+ bytes needed, [\d,]+ free"):
            tiny.train(recipe, tmp_path / "disk", after_epoch=after_epoch)
        run = Run.of(recipe, tmp_path / "disk")
        assert not [path for path in run.path.rglob("*") if path.name.endswith(".tmp")]
        assert not run.done
        filler.unlink(missing_ok=True)
        remount("size=20m")
        assert tiny.trace(tiny.train(recipe, tmp_path / "disk")) == tiny.trace(whole)


def test_a_clock_that_jumps_back_between_sessions(tmp_path, d_ffds, monkeypatch):
    recipe, whole = d_ffds
    tiny.train(recipe, tmp_path, until=2)
    first = Run.of(recipe, tmp_path).metrics
    for name in ("time", "monotonic"):
        clock = getattr(time, name)
        monkeypatch.setattr(time, name, lambda clock=clock: clock() - 1e6)
    run = tiny.train(recipe, tmp_path)
    assert tiny.trace(run) == tiny.trace(whole)
    assert run.metrics[:2] == first
    assert sum(line["seconds"] for line in first) < run.summary["seconds"] < 1e5


@pytest.mark.parametrize("how", ["the lock", "the metrics"])
def test_what_is_removed_under_a_living_run_ends_it(how, tmp_path, d_ffds):
    """It writes nothing more; with its files in place again the same command goes on."""
    recipe, whole = d_ffds
    run, kept = Run.of(recipe, tmp_path / "runs"), tmp_path / "kept"

    def after_epoch(entry):
        if entry["epoch"] == 2 and not kept.exists():
            shutil.copytree(run.path, kept)
            (run.path / {"the lock": "lock", "the metrics": "metrics.jsonl"}[how]).unlink()

    with pytest.raises(InputError, match="damaged" if "metrics" in how else "lock of this run was removed"):
        tiny.train(recipe, tmp_path / "runs", after_epoch=after_epoch)
    assert not run.done
    shutil.copytree(kept, run.path, dirs_exist_ok=True)
    assert tiny.trace(tiny.train(recipe, tmp_path / "runs")) == tiny.trace(whole)


@pytest.mark.parametrize("state", [{}, {"reached": 7}, {"reached": {"epoch": {}}}, {"reached": {"epocs": 1}}])
def test_a_checkpoint_that_verifies_but_lacks_what_a_run_needs(state, tmp_path, d_ffds):
    recipe, _ = d_ffds
    run = tiny.train(recipe, tmp_path, until=1)
    checkpoints = Checkpoints(run.checkpoints)
    found = checkpoints.latest()
    replace(checkpoints, identity=found.identity).save(replace(found, state=state), 1)
    with pytest.raises(InputError, match="a checkpoint lacks what a run needs"):
        tiny.train(recipe, tmp_path)
