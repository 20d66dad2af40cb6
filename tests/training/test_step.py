"""A step never waits for the device; one that is not finite changes no weight and stops the run."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import nn

from ffds.data.loader import Batch
from ffds.errors import NonFiniteLossError
from ffds.losses import FFDSLoss
from ffds.methods.registry import METHODS
from ffds.models.build import Classifier
from ffds.run_directory import Run
from ffds.training.step import NanGuard, diagnosis
from tests.full_disk import room_for
from tests.host_sync import NoHostSync
from tests.training import tiny
from tests.training.test_resume import with_loss_scaler


@pytest.mark.parametrize(
    ("method", "mixed"), [(one, "") for one in METHODS] + [(one, "mixed") for one in tiny.KINDS]
)
def test_no_step_waits_for_the_device(method, mixed, tmp_path):
    """From the batch to the update, in the first phase and in the last, whatever is observed."""
    steps = "data.augment=[pad-crop,randaugment,color-jitter,random-erasing]"
    unmixed = METHODS[method].views or METHODS[method].mixes
    mixing = () if unmixed else ("data.mixup=1", "data.cutmix=1")
    settings = (*mixing, steps) if mixed else ()
    loop = tiny.loop(tmp_path, tiny.recipe(*settings, method=method))
    stepping = [phase for phase in loop.phases if phase.stage.fit is None]
    for epoch, phase in ((0, stepping[0]), (stepping[-1].stop - 1, stepping[-1])):
        loop.reached.epoch = epoch
        loop.state.train_mode(phase.trained[epoch - phase.start])
        with NoHostSync():
            stage = phase.stage
            batches = list(loop.batches.epoch(epoch, sampler=stage.sampler, views=stage.views))
        assert len(batches) == tiny.STEPS
        with NoHostSync():
            loop.step(phase, batches[-1], observed=True)


class Guarded:
    """A network with gradients, its optimizer, and the guard over both."""

    def __init__(self, *, gradients=True, backward=True):
        self.network = nn.Linear(3, 2)
        if backward:
            self.network(torch.ones(1, 3)).sum().backward()
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.1, momentum=0.9, fused=True)
        self.guard = NanGuard(Fabric(accelerator="cpu"), self.optimizer, gradients=gradients)

    def step(self, number, loss=1.0):
        self.guard.check(torch.tensor(number), torch.tensor(loss))
        self.optimizer.step()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite(value):
    for gradients, in_gradient in ((True, 0), (False, None)):
        one = Guarded(gradients=gradients)
        one.step(3, value)
        assert one.guard.first_non_finite() == one.guard.first_non_finite(wait=True) == 3
        one = Guarded(gradients=gradients)
        one.network.bias.grad[1] = value
        one.step(0)
        assert one.guard.first_non_finite() == in_gradient


def test_no_weight_changes_from_the_first_such_step_on():
    """The host may learn of it some steps later, and goes back to the first."""
    one = Guarded()
    initial = one.network.weight.clone()
    one.step(4, 3e38)
    assert one.guard.first_non_finite() is None
    assert torch.allclose(one.network.weight, initial - 0.1)
    before = [parameter.clone() for parameter in one.network.parameters()]
    for number, loss in [(5, math.nan), (6, 1.0), (7, math.inf), (8, 1.0)]:
        one.step(number, loss)
    assert one.guard.first_non_finite() == 5
    assert all(map(torch.equal, one.network.parameters(), before))
    one = Guarded(backward=False)
    one.step(0)
    assert one.guard.first_non_finite() is None, "parameters without a gradient do not count"


def test_diagnosis_names_what_is_broken():
    network = Classifier(nn.Flatten(), nn.Linear(4, 3))
    images = torch.zeros(4, 1, 2, 2)
    images[2, 0, 0, 0] = math.inf
    batch = Batch(images, torch.tensor([0, 2, 2, 0]), torch.tensor([11, 12, 13, 14]), 4)
    logits = torch.tensor([[0.0, 0, 0], [0, 0, math.log(2)], [math.nan, 0, 0], [0, 0, 0]])
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    network.head.bias.grad[0] = math.nan
    with torch.no_grad():
        network.head.weight[0, 0] = math.inf
    names, files = ["cat", "dog", "barn owl"], [Path(f"photos/{k}.jpg") for k in range(20)]
    given = (batch, logits, torch.tensor(math.nan), dict(network.named_parameters()), names)
    found = diagnosis(*given, files)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    named = [f"photos/{k}.jpg" for k in (11, 12, 13, 14)]
    bad = ["photos/13.jpg"]
    of_files = {"samples": named, "samples_not_finite": bad, "images_not_finite": bad}
    assert found.pop("files") == of_files
    assert found == diagnosis(*given), "images without files of their own have numbers alone"
    per_class = found.pop("cross_entropy_per_class")
    assert found == {
        "loss": "nan",
        "samples": [11, 12, 13, 14],
        "samples_not_finite": [13],
        "images_not_finite": [13],
        "parameters_not_finite": ["head.weight"],
        "gradients_not_finite": ["head.bias"],
    }
    assert float(per_class["cat"]) == pytest.approx(math.log(3))
    assert per_class["barn owl"] == "nan"
    assert per_class.keys() == {"cat", "barn owl"}


class Broken(nn.Module):
    """Cross-entropy up to a call, then what `how` says."""

    def __init__(self, how, at):
        super().__init__()
        self.how, self.at, self.calls = how, at, 0

    def forward(self, logits, target):
        self.calls += 1
        loss = nn.functional.cross_entropy(logits, target)
        if self.calls < self.at:
            return loss
        if self.how == "gradient":
            # sqrt has an infinite slope at 0: times 0 that is NaN, in the gradient alone.
            return loss + (logits.sum() * 0).sqrt()
        return loss * float(self.how)


@pytest.mark.parametrize(
    ("how", "precision"),
    [("nan", "32"), ("inf", "32"), ("-inf", "32"), ("gradient", "32"), ("gradient", "bf16")],
)
def test_a_run_stops_before_the_step(how, precision, tmp_path):
    """In step 2 of epoch 2: the weights are those after step 1, the checkpoint that of epoch 1."""
    recipe = tiny.own(f"trainer.precision={precision}")
    good = tiny.loop(tmp_path / "good", recipe, loss=Broken("nan", 10**9), polls=tiny.POLLS + 1)
    with pytest.raises(Exception, match="SIGTERM"):
        good.train()
    loop = tiny.loop(tmp_path / "bad", recipe, loss=Broken(how, tiny.STEPS + 2))
    place = r"not finite in epoch 2, step 2 \(custom, lr 0.1\)"
    with pytest.raises(NonFiniteLossError, match=place) as caught:
        loop.train()
    ours, theirs = good.state.model.named_parameters(), loop.state.model.parameters()
    for (name, weight), other in zip(ours, theirs, strict=True):
        assert torch.equal(weight, other), name
    assert [path.name for path in loop.run.checkpoints.iterdir()] == ["epoch-0001"]
    file = loop.run.path / "diagnosis.json"
    assert caught.value.diagnosis == file
    assert str(file) in str(caught.value)
    found = json.loads(file.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert (found["epoch"], found["step"], found["phase"], found["lr"]) == (2, 2, "custom", 0.1)
    assert found["samples"] == [batch.indices.tolist() for batch in loop.batches.epoch(1)][1]
    labels = {loop.dataset.class_names[loop.dataset.train.labels[row]] for row in found["samples"]}
    assert found["cross_entropy_per_class"].keys() == labels
    assert math.isfinite(float(found["loss"])) == (how == "gradient")
    assert found["gradients_not_finite"]
    assert not found["parameters_not_finite"]


def test_on_a_full_disk_the_message_has_the_diagnosis(tmp_path):
    loop = tiny.loop(tmp_path, tiny.own(), loss=Broken("nan", 2))
    with room_for(100), pytest.raises(NonFiniteLossError, match="epoch 1, step 2 ") as caught:
        loop.train()
    line = next(line for line in str(caught.value).splitlines() if "diagnosis:" in line)
    assert "cannot save diagnosis.json" in line
    assert json.loads(line[line.index("; {") + 2 :])["samples"]
    assert not list(loop.run.path.glob("*diagnosis*"))


def test_the_message_names_the_images_whose_outputs_are_not_finite(tmp_path):
    """By their files where each has its own, and otherwise by their places in the training set."""
    images = tiny.dataset()
    files = tuple(tmp_path / f"{k}.jpg" for k in range(len(images.train)))
    for file in files:
        file.touch()
    with_files = replace(images, train=replace(images.train, files=files))
    for given, name in ((with_files, f"{tmp_path}/{{}}.jpg"), (images, "sample {}")):
        loop = tiny.loop(tmp_path / name[-6:], tiny.recipe(method="ce"), images=given)
        loop.state.model.head.bias.data.fill_(math.nan)
        samples = next(loop.batches.epoch(0)).indices.tolist()
        first = ", ".join(name.format(k) for k in samples[:3])
        told = rf"images: +{len(samples)} of {len(samples)} outputs are not finite: {first}, …\n"
        with pytest.raises(NonFiniteLossError, match=told):
            loop.train()


class InfiniteSlope(tiny.Scaled):
    """From a call on, the gradient of its own parameter alone is NaN."""

    def forward(self, logits, target):
        loss = super().forward(logits, target)
        return loss + (self.scale * 0).sqrt() if self.calls >= tiny.STEPS + 2 else loss


def test_a_gradient_of_the_loss_that_is_not_finite_stops_the_run(tmp_path):
    loop = tiny.loop(tmp_path, tiny.own(), loss=InfiniteSlope())
    with pytest.raises(NonFiniteLossError, match="not finite in epoch 2, step 2 ") as caught:
        loop.train()
    assert json.loads(caught.value.diagnosis.read_text())["gradients_not_finite"] == ["loss.0.scale"]
    assert all(parameter.isfinite().all() for parameter in loop.state.parameters.values())


def test_the_loss_scaler_may_meet_infinite_gradients(tmp_path, monkeypatch):
    """In half precision such steps are skipped, but a loss that is not finite stops the run too."""
    monkeypatch.setattr("tests.training.tiny.launch_fabric", with_loss_scaler)
    recipe = tiny.own("trainer.precision=16", "schedule.epochs=1")
    loop = tiny.loop(tmp_path / "gradient", recipe, loss=Broken("gradient", 3))
    before = loop.fabric.strategy.precision.scaler.get_scale()
    loop.train()
    assert loop.fabric.strategy.precision.scaler.get_scale() < before * 2
    assert all(weight.isfinite().all() for weight in loop.state.model.parameters())
    with pytest.raises(NonFiniteLossError):
        tiny.loop(tmp_path / "loss", recipe, loss=Broken("nan", 3)).train()


def test_after_a_passing_fault_the_run_goes_on_from_the_checkpoint_before(tmp_path, monkeypatch, d_ffds):
    """The same command ends as if the fault had never been."""
    recipe, whole = d_ffds
    forward = FFDSLoss.forward
    with monkeypatch.context() as patch:
        patch.setattr(FFDSLoss, "forward", lambda *given: forward(*given) * math.nan)
        with pytest.raises(NonFiniteLossError, match="epoch 4, step 1 "):
            tiny.train(recipe, tmp_path)
    saved = Run.of(recipe, tmp_path).checkpoints
    assert sorted(path.name for path in saved.iterdir()) == ["epoch-0002", "epoch-0003"]
    assert load_file(saved / "epoch-0003" / "loss.safetensors")["rank0.1.group_means"].isfinite().all()
    assert tiny.trace(tiny.train(recipe, tmp_path)) == tiny.trace(whole)
