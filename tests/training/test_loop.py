"""The loop does what its twin of twenty lines does, and looks at no image that it should not see."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from ffds.data.loader import TrainBatches
from ffds.errors import InputError, Interrupted
from ffds.evaluation.measures import MEASURES
from ffds.losses import FFDSLoss, InfluenceBalancedLoss, LDAMLoss, class_balanced_weights
from ffds.methods.registry import METHODS
from ffds.models.build import build_model
from ffds.run_directory import Run
from ffds.training.checkpoint import Checkpoints
from ffds.training.evaluate import evaluate
from tests.training import tiny


def twin(recipe, losses, observing_epoch=None, clip_norm=math.inf, decay=0.0):
    """The weights after plain training, averaged with the decay: `losses[epoch]` is that epoch's loss."""
    images = tiny.dataset()
    model = build_model(
        recipe.model, head=recipe.head, num_classes=10, in_channels=1, seed=recipe.trainer.seed
    ).to(memory_format=torch.channels_last)
    trained = [*model.parameters(), *losses[0][0].parameters()]
    optimizer = torch.optim.SGD(trained, fused=True, lr=0.1, momentum=0.9, weight_decay=2e-4)
    size, cpu = recipe.trainer.batch_size, torch.device("cpu")
    batches = TrainBatches(images.train, recipe.data, batch_size=size, seed=recipe.trainer.seed, device=cpu)
    mean_losses, steps = [], 0
    average = {name: value.clone() for name, value in model.state_dict().items()}
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
            if clip_norm < math.inf:
                assert nn.utils.clip_grad_norm_(trained, clip_norm) > clip_norm, "it matters"
            optimizer.step()
            steps += 1
            d = min(decay, (1 + steps) / (10 + steps))
            for name, now in model.state_dict().items():
                average[name] = torch.lerp(average[name], now, 1 - d) if now.is_floating_point() else now
            total += value.item() * len(batch.labels)
        mean_losses.append(total / len(images.train))
        if epoch == observing_epoch or isinstance(loss, FFDSLoss):
            losses[-1][0].end_epoch()
    if decay:
        model.load_state_dict(average)
    return model, mean_losses


def check_against_twin(tmp_path, recipe, losses, observing_epoch=None, loss=None):
    loop = tiny.loop(tmp_path, recipe, loss=loss)
    loop.train()
    model, mean_losses = twin(recipe, losses, observing_epoch)
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
    loop = check_against_twin(tmp_path, recipe, losses, observing_epoch=2 if observe else None)
    assert torch.equal(loop.state.losses[1].group_means, ffds.group_means)
    assert not ffds.group_means.isnan().any()


def test_ldam_drw(tmp_path):
    recipe = tiny.recipe(method="ldam-drw")
    margins = LDAMLoss(tiny.COUNTS)
    weighted = LDAMLoss(tiny.COUNTS, weight=class_balanced_weights(tiny.COUNTS, 0.9999))
    losses = [(margins, 0.1), (margins, 0.1), (margins, 0.1), (weighted, 0.1 * 0.01)]
    check_against_twin(tmp_path, recipe, losses)


def test_the_parameters_of_a_loss_are_trained_as_those_of_the_network(tmp_path):
    own, same = tiny.Scaled(), tiny.Scaled()
    rates = [0.1, 0.1, 0.1, 0.1 * 0.1]
    check_against_twin(tmp_path, tiny.own(), [(same, lr) for lr in rates], loss=own)
    assert own.scale.item() == same.scale.item() != 5.0
    assert torch.equal(own.bias, same.bias)


def test_clipped_and_averaged(tmp_path):
    """The average is scored, and is the network of the checkpoint; the one that is trained goes on."""
    recipe = tiny.recipe("trainer.clip_norm=0.5", "trainer.ema=0.8", "schedule.epochs=2", method="ce")
    loop = tiny.loop(tmp_path, recipe)
    evaluated = loop.train()
    model, _ = twin(recipe, [(CE, 0.1), (CE, 0.1)], clip_norm=0.5, decay=0.8)
    saved = Checkpoints(loop.run.checkpoints).latest()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(saved.model[name], weight, rtol=1e-5, atol=1e-6)
    again = evaluate(loop.fabric, model, loop.test, tiny.COUNTS, None)
    assert evaluated.scores == again.scores
    plain, _ = twin(recipe, [(CE, 0.1), (CE, 0.1)], clip_norm=0.5)
    for name, weight in loop.state.model.state_dict().items():
        torch.testing.assert_close(weight, plain.state_dict()[name], rtol=1e-5, atol=1e-6)


def test_the_last_layers_input_reaches_a_loss_that_asks_for_it(tmp_path, monkeypatch):
    given, forward = [], InfluenceBalancedLoss.forward
    monkeypatch.setattr(
        InfluenceBalancedLoss, "forward", lambda *inputs: given.append(inputs[1:]) or forward(*inputs)
    )
    tiny.loop(tmp_path, tiny.recipe(method="ib")).train()
    logits, _, features = given[-1]
    assert features.shape == (31, 64)
    assert features.grad_fn is not None
    assert logits.shape == (31, 10)


def test_group_statistics_never_see_a_test_image(tmp_path, monkeypatch):
    gathered = []
    start_from = FFDSLoss.start_from

    def counting(self, observed):
        gathered.append(int(observed.counts.sum()))
        start_from(self, observed)

    monkeypatch.setattr(FFDSLoss, "start_from", counting)
    recipe = tiny.recipe("schedule.epochs=6", "method.start=0.5")
    tiny.loop(tmp_path, recipe, images=tiny.dataset(validation=True)).train()
    assert gathered == [95] * 4, "the last epoch of cross-entropy, then three of its own"


def test_validation_is_scored_and_never_trained_on(tmp_path, d_ffds):
    images, (recipe, plain) = tiny.dataset(validation=True), d_ffds
    held = tiny.loop(tmp_path, recipe, images=images)
    held.train()
    labels = torch.cat([batch.labels for batch in held.validation]).tolist()
    assert labels == images.validation.labels.tolist()
    ours, theirs = tiny.trace(held.run), tiny.trace(plain)
    assert all(theirs[name] == value for name, value in ours.items() if name.startswith("model "))
    for without, line in zip(plain.metrics, held.run.metrics, strict=True):
        assert without["validation"] is None
        assert line["validation"].keys() == {*(measure.name for measure in MEASURES), "per_class"}
        assert line["test"] == without["test"]
    again = evaluate(held.fabric, held.state.network, held.validation, tiny.COUNTS, None).scores
    assert held.run.metrics[-1]["validation"] == again.all()


def test_checkpoints_of_some_epochs_alone(tmp_path, d_ffds):
    """Of every third and the last; whatever comes between is trained again, and the run is the same."""
    recipe, whole = tiny.recipe("trainer.checkpoint_every=3"), d_ffds[1]
    assert recipe.config_hash == d_ffds[0].config_hash
    saved = []

    def after_epoch(entry):
        saved.append(sorted(path.name for path in run.checkpoints.glob("*")))
        if entry["epoch"] == 2 and len(saved) == 2:
            raise KeyboardInterrupt

    run = Run.of(recipe, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        tiny.train(recipe, tmp_path, after_epoch=after_epoch)
    assert len(run.metrics) == 2
    tiny.train(recipe, tmp_path, after_epoch=after_epoch)
    assert saved == [[], [], [], [], ["epoch-0003"], ["epoch-0003", "epoch-0004"]]
    assert tiny.trace(run) == tiny.trace(whole)


class Clock(nn.CrossEntropyLoss):
    """Cross-entropy in which time passes; it stands for a GPU that is behind the host."""

    now = 0.0

    def forward(self, logits, target):
        Clock.now += 10.0
        return super().forward(logits, target)


def test_seconds_of_steps_and_of_all(tmp_path, monkeypatch):
    monkeypatch.setattr("ffds.training.loop.time.monotonic", lambda: Clock.now)
    loop = tiny.loop(tmp_path, tiny.own(), loss=Clock())
    loop.train()
    assert loop.reached.train_seconds == tiny.EPOCHS * tiny.STEPS * 10.0
    assert [line["images_per_second"] for line in loop.run.metrics] == [pytest.approx(95 / 30)] * tiny.EPOCHS
    assert loop.reached.seconds == loop.reached.train_seconds


@pytest.mark.parametrize(("every", "scored"), [(1, [1, 2, 3, 4]), (2, [2, 4]), (3, [3, 4]), (9, [4])])
def test_eval_every(every, scored, tmp_path):
    loop = tiny.loop(tmp_path, tiny.recipe(f"trainer.eval_every={every}", method="ce"))
    outcome = loop.train()
    lines = loop.run.metrics
    assert [line["epoch"] for line in lines if line["test"] is not None] == scored
    assert loop.reached.best_epoch in scored
    assert outcome.scores.accuracy == lines[-1]["test"]["accuracy"]
    assert all(line["train"]["accuracy"] is not None for line in lines)


def test_metrics_are_the_ones_of_a_count_by_hand_over_each_training_image_once(tmp_path):
    """Training accuracy of each epoch, from the logits the loss was shown."""
    right, seen = torch.zeros(2, 10), torch.zeros(2, 10)

    class Counting(nn.CrossEntropyLoss):
        epoch = 0

        def forward(self, logits, target):
            assert self.training
            seen[self.epoch] += target.bincount(minlength=10)
            right[self.epoch] += target[logits.argmax(1) == target].bincount(minlength=10)
            return super().forward(logits, target)

        def observe(self, logits, target):
            pytest.fail("its forward has seen them")

        def end_epoch(self):
            self.epoch += 1

    one, images = tiny.own("schedule.epochs=2"), tiny.dataset(validation=True)
    loop = tiny.loop(tmp_path, one, images=images, loss=Counting())
    loop.train()
    assert seen.tolist() == [tiny.COUNTS] * 2
    for epoch, line in enumerate(loop.run.metrics):
        train, per_class = line["train"], (100 * right / seen)[epoch].tolist()
        assert train["accuracy"] == pytest.approx(100 * right[epoch].sum().item() / 95)
        for group, (start, stop) in {"head": (0, 3), "middle": (3, 7), "tail": (7, 10)}.items():
            assert train[group] == pytest.approx(sum(per_class[start:stop]) / (stop - start))


@pytest.mark.parametrize(
    ("counts", "size", "steps"), [(tiny.COUNTS, 1000, 1), ([20, 6, 3, 1, 1, 1, 1, 1, 1, 1], 7, 5)]
)
def test_a_batch_larger_than_the_data_and_a_last_batch_of_one(counts, size, steps, tmp_path):
    loop = tiny.loop(tmp_path, tiny.recipe(f"trainer.batch_size={size}"), images=tiny.dataset(counts))
    loop.train()
    assert len(loop.batches) == steps
    assert loop.reached.images == tiny.EPOCHS * sum(counts)
    assert loop.run.metrics[-1]["train"]["tail"] is not None


def test_batches_of_one_image_train_or_are_refused_before_the_first_step(tmp_path):
    """Batch norm takes one image where its maps have several pixels; a rest of one joins the batch before."""
    images = tiny.dataset([2, 1])

    def trained(network, size):
        settings = (f"model.name={network}", f"trainer.batch_size={size}", "data.cut=null")
        loop = tiny.loop(tmp_path / network, tiny.recipe(*settings, method="ce"), images=images)
        loop.train()
        return len(loop.batches)

    assert trained("resnet20", 1) == 3
    assert trained("timm/resnet18", 2) == 1
    with pytest.raises(InputError, match="timm/resnet18 cannot be trained on batches of one image"):
        trained("timm/resnet18", 1)


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


def test_compiled(tmp_path, monkeypatch):
    """Every batch goes through the compiled network; checkpoints are those of the network itself."""
    seen, original = [], torch.compile

    def backend(graph, inputs):
        def run(*given):
            images = next(tensor for tensor in given if tensor.shape[2:] == (8, 8))
            seen.append((torch.is_grad_enabled(), len(images)))
            return graph.forward(*given)

        return run if len(inputs) > 1 else graph.forward

    def compile_simply(model, **how):
        return original(model, backend=backend, dynamic=how.get("dynamic"))

    monkeypatch.setattr(torch, "compile", compile_simply)
    recipe = tiny.recipe("trainer.compile=true", "schedule.epochs=2")
    whole = tiny.train(recipe, tmp_path / "whole")
    assert seen == [(True, 32), (True, 32), (True, 31), (False, 40)] * 2
    trace = tiny.trace(whole)
    plain = tiny.loop(tmp_path / "plain", tiny.recipe("schedule.epochs=2"))
    names = {f"model {name}" for name in plain.state.model.state_dict()}
    assert {name for name in trace if name.startswith("model ")} == names
    plain.state.restore(Checkpoints(whole.checkpoints).latest())
    _, predictions = evaluate(plain.fabric, plain.state.network, plain.test, tiny.COUNTS, None)
    assert predictions.confidence.tolist() == trace["predictions"]["confidence"]
    with pytest.raises(Interrupted):
        tiny.train(recipe, tmp_path / "parts", polls=tiny.POLLS + 2)
    assert tiny.trace(tiny.train(recipe, tmp_path / "parts")) == trace
