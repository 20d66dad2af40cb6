"""A frozen backbone: nothing of it changes, its features are computed once, and training is the same."""

import pytest
import torch
from safetensors.torch import load_file

from ffds.data import cache
from ffds.errors import Interrupted
from ffds.training.features import with_features
from ffds.training.phases import phases
from ffds.training.trajectory import history_hashes
from tests.training import tiny
from tests.training.test_resume import check_parts

THROUGHOUT = ("schedule.frozen_epochs=all", "data.augment=[]")


def weights(run):
    return load_file(sorted(run.checkpoints.iterdir())[-1] / "model.safetensors")


def initial(recipe, path):
    return tiny.loop(path, recipe).state.model.state_dict()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FFDS_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("method", ["ce", "d-ffds", "ldam-drw", "ib"])
def test_training_on_features_is_training_on_images(method, tmp_path):
    on_features = tiny.train(tiny.recipe(*THROUGHOUT, method=method), tmp_path)
    by_images = f"schedule.frozen_epochs={tiny.EPOCHS}"
    on_images = tiny.train(tiny.recipe(by_images, "data.augment=[]", method=method), tmp_path)
    first, second = weights(on_features), weights(on_images)
    for name, tensor in initial(on_features.recipe, tmp_path / "look").items():
        if name.startswith("backbone."):
            assert torch.equal(first[name], tensor), name
            assert torch.equal(second[name], tensor), name
        else:
            assert not torch.equal(first[name], tensor), name
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)


def test_what_is_computed_or_read_is_said_and_the_cache_names_it(tmp_path, capsys):
    def told(shown):
        images = tiny.dataset()
        state = tiny.loop(tmp_path / "run", tiny.recipe(method="ce")).state
        recipe = tiny.recipe(*THROUGHOUT, method="ce")
        with_features(state.fabric, recipe, state.model, images, shown=shown)
        return capsys.readouterr().err.splitlines()

    sizes = {"training": sum(tiny.COUNTS), "test": 4 * len(tiny.COUNTS)}
    lines = {
        how: [f"features of {n} {name} images: {how}" for name, n in sizes.items()]
        for how in ("computed, and kept in the cache", "read from the cache")
    }
    assert told(True) == lines["computed, and kept in the cache"]
    assert told(True) == lines["read from the cache"]
    assert told(False) == []
    directories = sorted(entry.about["directory"] for entry in cache.entries())
    assert directories == [f"digits (features of the {name} images)" for name in ("test", "training")]


def test_features_are_computed_once(tmp_path, monkeypatch):
    monkeypatch.setattr("ffds.models.resnet_cifar.ResNetCifar.forward", counted := Counted())
    tiny.train(tiny.recipe(*THROUGHOUT, method="ce"), tmp_path)
    calls = counted.calls
    assert calls > 0
    assert len(cache.entries()) == 2
    tiny.train(tiny.recipe(*THROUGHOUT, method="ldam-drw"), tmp_path)
    assert counted.calls == calls
    tiny.train(tiny.recipe(*THROUGHOUT, "trainer.seed=1", method="ce"), tmp_path)  # another backbone
    assert counted.calls == 2 * calls


class Counted:
    """`ResNetCifar.forward` that counts its batches."""

    def __init__(self):
        from ffds.models.resnet_cifar import ResNetCifar

        self.calls, self.forward = 0, ResNetCifar.forward

    def __get__(self, network, _):
        def forward(images):
            self.calls += len(images) > 1  # one image tries the size
            return self.forward(network, images)

        return forward


def test_the_backbone_is_trained_after_the_frozen_epochs(tmp_path):
    recipe = tiny.recipe("schedule.frozen_epochs=2")
    before = initial(recipe, tmp_path / "look")
    tiny.train(recipe, tmp_path, until=2)
    run = tiny.train(recipe, tmp_path, until=2)
    for name, tensor in weights(run).items():
        assert torch.equal(before[name], tensor) == name.startswith("backbone."), name
    tiny.train(recipe, tmp_path)
    changed = [not torch.equal(before[name], tensor) for name, tensor in weights(run).items()]
    assert all(changed)


@pytest.mark.parametrize(("frozen", "augment"), [("2", "[hflip]"), ("all", "[]")])
def test_a_frozen_run_in_parts(frozen, augment, tmp_path):
    settings = (f"schedule.frozen_epochs={frozen}", f"data.augment={augment}")
    check_parts(tiny.recipe(*settings, "optimizer.momentum=0.9"), tmp_path)


def test_a_history_knows_its_frozen_epochs():
    def history(*settings):
        recipe, images = tiny.recipe(*settings), tiny.dataset()
        return history_hashes(recipe, images, phases(recipe, images.class_counts))

    none, one, two = history(), history("schedule.frozen_epochs=1"), history("schedule.frozen_epochs=2")
    assert [a == b for a, b in zip(one, two, strict=True)] == [True, True, False, False, False]
    assert [a == b for a, b in zip(none, one, strict=True)] == [True, False, False, False, False]


MEANS = ("model.head=cosine", "model.head_scale=25", "model.head_init=class-means")


@pytest.mark.parametrize("frozen", [(), THROUGHOUT], ids=["trained", "frozen"])
def test_a_cosine_head_begins_with_the_class_means(frozen, tmp_path):
    unmoved = ("trainer.ema=0.9", "optimizer.lr=1e-30")
    recipe = tiny.recipe(*MEANS, *frozen, *unmoved, method="ce")
    loop, images = tiny.loop(tmp_path, recipe, polls=0), tiny.dataset().train
    network = loop.state.model
    with pytest.raises(Interrupted):
        loop.train()
    scaled = torch.tensor(images.images).permute(0, 3, 1, 2).float() / 255
    pixels = (scaled - recipe.data.mean[0]) / recipe.data.std[0]
    begun = tiny.loop(tmp_path / "look", recipe).state.model.eval()
    with torch.no_grad():
        features = begun.backbone(pixels).double()
    means = torch.stack([features[images.labels == c].mean(0) for c in range(len(tiny.COUNTS))])
    expected = torch.nn.functional.normalize(means).float()
    assert network.head.scale == 25
    torch.testing.assert_close(network.head.weight.detach(), expected)
    torch.testing.assert_close(loop.state.average.averages["head.weight"], expected)


@pytest.mark.parametrize("frozen", [(), THROUGHOUT], ids=["trained", "frozen"])
def test_a_run_that_begins_with_class_means_goes_on_as_if_it_never_stopped(frozen, tmp_path):
    check_parts(tiny.recipe(*MEANS, *frozen, method="ce"), tmp_path)
