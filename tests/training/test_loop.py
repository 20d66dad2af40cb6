"""The loop does what its twin of twenty lines does, and looks at no image that it should not see."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ffds.data.loader import TrainBatches
from ffds.errors import Interrupted
from ffds.losses import FFDSLoss, LDAMLoss, class_balanced_weights
from ffds.methods.registry import METHODS
from ffds.methods.reweighting import Custom
from ffds.models.build import build_model
from ffds.run_directory import Run
from ffds.training.checkpoint import Checkpoints
from ffds.training.loop import TrainingLoop
from ffds.training.step import TrainStep
from ffds.training.train import train_recipe
from tests.training import tiny


def twin(recipe, losses, observing_epoch=None, images=None):
    """The weights after plain training: `losses[epoch]` is that epoch's loss."""
    images = images or tiny.dataset()
    model = build_model(
        recipe.model, head=recipe.head, num_classes=10, in_channels=1, seed=recipe.trainer.seed
    ).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), fused=True, lr=0.1, momentum=0.9, weight_decay=2e-4)
    size, cpu = recipe.trainer.batch_size, torch.device("cpu")
    batches = TrainBatches(images.train, recipe.data, batch_size=size, seed=recipe.trainer.seed, device=cpu)
    mean_losses = []
    for epoch, (loss, lr) in enumerate(losses):
        optimizer.param_groups[0]["lr"] = lr
        total = 0.0
        for batch in batches.epoch(epoch):
            optimizer.zero_grad()
            logits = model(batch.images)
            value = loss(logits, batch.labels)
            if epoch == observing_epoch:
                losses[-1][0].observe(logits, batch.labels)
            value.backward()
            optimizer.step()
            total += value.item() * len(batch.labels)
        mean_losses.append(total / len(images.train))
        if epoch == observing_epoch or isinstance(loss, FFDSLoss):
            losses[-1][0].end_epoch()
    return model, mean_losses


def check_against_twin(tmp_path, recipe, losses, **how):
    loop = tiny.loop(tmp_path, recipe, images=how.get("images"))
    loop.train()
    model, mean_losses = twin(recipe, losses, **how)
    for name, weight in model.state_dict().items():
        assert torch.equal(loop.state.model.state_dict()[name], weight), name
    metrics = loop.run.metrics
    assert [line["train"]["loss"] for line in metrics] == pytest.approx(mean_losses, rel=1e-6)
    assert [line["lr"] for line in metrics] == [lr for _, lr in losses]
    return loop


CE = nn.CrossEntropyLoss()


def test_cross_entropy(tmp_path):
    recipe = tiny.recipe(method="ce")
    loop = check_against_twin(tmp_path, recipe, [(CE, 0.1), (CE, 0.1), (CE, 0.1), (CE, 0.1 * 0.1)])
    assert loop.reached.images == tiny.EPOCHS * 95
    assert [line["phase"] for line in loop.run.metrics] == ["cross-entropy"] * 4


@pytest.mark.parametrize("observe", [True, False])
def test_deferred_ffds(observe, tmp_path):
    recipe = tiny.recipe(f"method.observe={str(observe).lower()}", "schedule.epochs=5")
    ffds = FFDSLoss(tiny.COUNTS, num_groups=3)
    losses = [(CE, 0.1), (CE, 0.1), (CE, 0.1), (ffds, 0.1), (ffds, 0.1 * 0.1)]
    observing_epoch = 2 if observe else None
    loop = check_against_twin(tmp_path, recipe, losses, observing_epoch=observing_epoch)
    assert torch.equal(loop.state.losses[1].group_means, ffds.group_means)
    assert not ffds.group_means.isnan().any()


def test_ldam_drw(tmp_path):
    recipe = tiny.recipe(method="ldam-drw")
    margins = LDAMLoss(tiny.COUNTS)
    weighted = LDAMLoss(tiny.COUNTS, weight=class_balanced_weights(tiny.COUNTS, 0.9999))
    losses = [(margins, 0.1), (margins, 0.1), (margins, 0.1), (weighted, 0.1 * 0.01)]
    check_against_twin(tmp_path, recipe, losses)


def test_the_last_layers_input_reaches_a_loss_that_asks_for_it(tmp_path, monkeypatch):
    seen = []
    loop = tiny.loop(tmp_path, tiny.recipe(method="ib"))
    loss = loop.phases[1].stage.loss
    monkeypatch.setattr(loss, "forward", lambda *given: seen.append(given) or F.cross_entropy(*given[:2]))
    loop.train()
    logits, _, features = seen[-1]
    assert features.shape == (31, 64)
    assert features.grad_fn is not None
    assert logits.shape == (31, 10)


# Who is looked at


class Spy(nn.Module):
    """Counts what a loss with statistics is shown."""

    def __init__(self):
        super().__init__()
        self.shown = [0]
        self.observed = [0]
        self.modes = set()

    def forward(self, logits, target):
        self.shown[-1] += len(target)
        self.modes.add(self.training)
        return F.cross_entropy(logits, target)

    def observe(self, logits, target):
        self.observed[-1] += len(target)

    def end_epoch(self):
        self.shown.append(0)
        self.observed.append(0)


def test_group_statistics_never_see_a_test_image(tmp_path, monkeypatch):
    gathered = []
    start_from = FFDSLoss.start_from

    def counting(self, observed):
        gathered.append(int(observed.counts.sum()))
        start_from(self, observed)

    monkeypatch.setattr(FFDSLoss, "start_from", counting)
    images = tiny.dataset(validation=True)
    tiny.loop(tmp_path, tiny.recipe("schedule.epochs=6", "method.start=0.5"), images=images).train()
    assert gathered == [95] * 4, "the last epoch of cross-entropy, then three of its own"


def test_a_loss_with_statistics_sees_each_training_image_once_an_epoch(tmp_path):
    spy = Spy()
    images = tiny.dataset(validation=True)
    recipe = tiny.recipe(method="ce").model_copy(update={"method": Custom(loss="own")})
    tiny.loop(tmp_path, recipe, images=images, loss=spy).train()
    assert spy.shown == [95] * tiny.EPOCHS + [0]
    assert spy.observed == [0] * (tiny.EPOCHS + 1)
    assert spy.modes == {True}


def test_validation_is_scored_and_never_trained_on(tmp_path, monkeypatch):
    recipe, images, scored = tiny.recipe(), tiny.dataset(validation=True), []
    plain = tiny.loop(tmp_path / "plain", recipe)
    plain.train()
    held = tiny.loop(tmp_path / "held", recipe, images=images)
    original = held._evaluate
    monkeypatch.setattr(held, "_evaluate", lambda batches: scored.append(batches) or original(batches))
    held.train()
    assert [batches is held.test for batches in scored] == [True, False] * tiny.EPOCHS
    assert all(batches is held.validation for batches in scored[1::2])
    labels = torch.cat([batch.labels for batch in held.validation]).tolist()
    assert labels == images.validation.labels.tolist()
    for name, weight in plain.state.model.state_dict().items():
        assert torch.equal(held.state.model.state_dict()[name], weight), name
    for without, line in zip(plain.run.metrics, held.run.metrics, strict=True):
        assert without["validation"] is None
        assert line["validation"].keys() == line["test"].keys()
        assert len(line["validation"]["per_class"]) == 10
        assert line["test"] == without["test"]


def test_checkpoints_of_some_epochs_alone(tmp_path, monkeypatch):
    """Of every third and the last; whatever comes between is trained again, and the run is the same."""
    tiny.use(monkeypatch)
    recipe = tiny.recipe("trainer.checkpoint_every=3")
    assert recipe.config_hash == tiny.recipe().config_hash
    whole = train_recipe(tiny.recipe(), out=tmp_path / "whole", shown=False)
    saved = []

    def after_epoch(entry):
        saved.append(sorted(path.name for path in run.checkpoints.glob("*")))
        if entry["epoch"] == 2 and len(saved) == 2:
            raise KeyboardInterrupt

    run = Run.of(recipe, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train_recipe(recipe, out=tmp_path, shown=False, after_epoch=after_epoch)
    assert len(run.metrics) == 2
    train_recipe(recipe, out=tmp_path, shown=False, after_epoch=after_epoch)
    assert saved == [[], [], [], [], ["epoch-0003"], ["epoch-0003", "epoch-0004"]]
    assert tiny.trace(run) == tiny.trace(whole)


def test_the_wait_for_the_last_step_counts_as_training(tmp_path, monkeypatch):
    """A GPU is behind the host, which waits for it after the last step alone."""
    loop, clock, original = tiny.loop(tmp_path, tiny.recipe(method="ce")), [0.0], TrainingLoop._poll_step
    monkeypatch.setattr("ffds.training.loop.time.monotonic", lambda: clock[0])

    def poll_step(loop):
        original(loop)
        clock[0] += 10.0 if loop.reached.step == tiny.STEPS else 1.0

    monkeypatch.setattr(TrainingLoop, "_poll_step", poll_step)
    loop.train()
    assert loop.reached.train_seconds == tiny.EPOCHS * (10.0 + tiny.STEPS - 1)
    assert [line["images_per_second"] for line in loop.run.metrics] == [95 / 12] * tiny.EPOCHS


def test_only_whole_batches_are_compiled(tmp_path):
    """One of another size would be compiled for itself, which takes longer than all of its kind."""
    loop, seen = tiny.loop(tmp_path, tiny.recipe(method="ce")), []
    original = loop.state.forward

    class Compiled(nn.Module):
        def forward(self, images, **given):
            seen.append(len(images))
            return original(images, **given)

    loop.state.forward = Compiled()
    loop.train()
    assert loop.batches.rows == 32
    assert seen == [32, 32] * tiny.EPOCHS, "and 31 as it is"


def test_the_model_is_back_in_training_mode_after_each_evaluation(tmp_path, monkeypatch):
    loop = tiny.loop(tmp_path, tiny.recipe(method="ce"))
    modes = []
    original = TrainStep.__call__

    def step(self, *given, **how):
        modes.append(self.state.model.training)
        original(self, *given, **how)

    monkeypatch.setattr(TrainStep, "__call__", step)
    loop.train()
    assert modes == [True] * tiny.EPOCHS * tiny.STEPS


# What is scored when


@pytest.mark.parametrize(("every", "scored"), [(1, [1, 2, 3, 4]), (2, [2, 4]), (3, [3, 4]), (9, [4])])
def test_eval_every(every, scored, tmp_path):
    loop = tiny.loop(tmp_path, tiny.recipe(f"trainer.eval_every={every}", method="ce"))
    outcome = loop.train()
    lines = loop.run.metrics
    assert [line["epoch"] for line in lines if line["test"] is not None] == scored
    assert loop.reached.best_epoch in scored
    assert outcome.scores.accuracy == lines[-1]["test"]["accuracy"]
    assert all(line["train"]["accuracy"] is not None for line in lines)


def test_metrics_are_the_ones_of_a_count_by_hand(tmp_path):
    """Training accuracy of the last epoch, from the logits the loss was shown."""
    right, seen = torch.zeros(10), torch.zeros(10)

    class Counting(nn.Module):
        def forward(self, logits, target):
            for logit, label in zip(logits, target, strict=True):
                seen[label] += 1
                right[label] += logit.argmax() == label
            return F.cross_entropy(logits, target)

    recipe = tiny.recipe("schedule.epochs=1", method="ce").model_copy(update={"method": Custom(loss="own")})
    loop = tiny.loop(tmp_path, recipe, loss=Counting())
    loop.train()
    train = loop.run.metrics[0]["train"]
    per_class = (100 * right / seen).tolist()
    assert seen.tolist() == tiny.COUNTS
    assert train["accuracy"] == pytest.approx(100 * right.sum().item() / 95)
    for group, (start, stop) in {"head": (0, 3), "middle": (3, 7), "tail": (7, 10)}.items():
        assert train[group] == pytest.approx(sum(per_class[start:stop]) / (stop - start))


# Odd sizes (faults 15 and 16)


def test_a_batch_larger_than_the_data(tmp_path):
    loop = tiny.loop(tmp_path, tiny.recipe("trainer.batch_size=1000"))
    loop.train()
    assert len(loop.batches) == 1
    assert loop.reached.images == tiny.EPOCHS * 95


def test_a_last_batch_of_one(tmp_path):
    images = tiny.dataset([20, 6, 3, 1, 1, 1, 1, 1, 1, 1])
    loop = tiny.loop(tmp_path, tiny.recipe("trainer.batch_size=7"), images=images)
    loop.train()
    assert len(loop.batches) == 5
    assert loop.reached.images == tiny.EPOCHS * 36
    assert loop.run.metrics[-1]["train"]["tail"] is not None


@pytest.mark.parametrize("method", METHODS)
def test_classes_of_one_image(method, tmp_path):
    """And no test image of that class."""
    images = tiny.dataset([3, 1])
    images = replace(images, test=images.test.take((images.test.labels == 0).nonzero()[0]))
    groups = ("method.num_groups=2",) if "ffds" in method else ()
    recipe = tiny.recipe("data.cut=null", "schedule.epochs=2", *groups, method=method)
    loop = tiny.loop(tmp_path, recipe, images=images)
    scores = loop.train().scores
    assert scores.per_class[1] is None, "n/a, not 0"
    assert all(math.isfinite(line["train"]["loss"]) for line in loop.run.metrics)
    assert all(weight.isfinite().all() for weight in loop.state.model.state_dict().values())


def test_losses_are_built_for_the_device_and_the_model_is_seeded(tmp_path):
    first, second = (tiny.loop(tmp_path / str(n), tiny.recipe(f"trainer.seed={n}")) for n in (0, 1))
    again = tiny.loop(tmp_path / "again", tiny.recipe())
    ours, theirs, same = (loop.state.model.state_dict() for loop in (first, second, again))
    assert all(torch.equal(ours[name], same[name]) for name in ours)
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)


# Compiled


def test_compiled(tmp_path, monkeypatch):
    modes, original = set(), torch.compile

    def traced(model, **how):
        network = original(model, **(how | {"backend": "eager"}))
        if isinstance(network, nn.Module):
            network.register_forward_hook(lambda module, *_: modes.add(module.training))
        return network

    monkeypatch.setattr(torch, "compile", traced)
    tiny.use(monkeypatch)
    recipe = tiny.recipe("trainer.compile=true", "schedule.epochs=2")
    whole = train_recipe(recipe, out=tmp_path / "whole", shown=False)
    assert modes == {True, False}
    trace = tiny.trace(whole)
    plain = tiny.loop(tmp_path / "plain", tiny.recipe("schedule.epochs=2"))
    plain.train()
    names = {f"model {name}" for name in plain.state.model.state_dict()}
    assert {name for name in trace if name.startswith("model ")} == names
    plain.state.restore(Checkpoints(whole.checkpoints).latest())
    _, predictions = plain._evaluate(plain.test)
    assert predictions.confidence.tolist() == trace["predictions"]["confidence"]
    run = Run.of(recipe, tmp_path / "parts")
    tiny.stop_after(monkeypatch, tiny.POLLS + 2)
    with pytest.raises(Interrupted):
        train_recipe(recipe, out=tmp_path / "parts", shown=False)
    train_recipe(recipe, out=tmp_path / "parts", shown=False)
    assert tiny.trace(run) == trace
