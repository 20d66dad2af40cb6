"""Which runs are repetitions of each other, and which are not."""

import pytest

from ffds.methods.registry import METHODS
from ffds.recipes.load import load_recipe
from ffds.recipes.schema import Recipe
from ffds.reports.run_records import changed_settings, deciding, identity, protocol
from tests.paper.made import recipe

SAME = [
    *("trainer.seed=7", "trainer.compile=true", "trainer.channels_last=false", "trainer.deterministic=true"),
    *("trainer.devices=2", "trainer.accelerator=cpu", "trainer.eval_every=5"),
    *("data.root=elsewhere", "data.download=true"),
]
OTHER = [
    *("method.k=0.5", "method.weight_scale=none", "optimizer.lr=0.2", "data.imbalance_factor=50"),
    *("schedule.epochs=40", "trainer.batch_size=256", "trainer.precision=bf16", "data.validation=0.1"),
    *("model.name=resnet20", "data.seed=1"),
]


@pytest.mark.parametrize("override", SAME)
def test_seed_machine_and_place_do_not_matter(override):
    assert identity(recipe(override)) == identity(recipe())


@pytest.mark.parametrize("override", OTHER)
def test_what_can_change_the_result_does(override):
    assert identity(recipe(override)) != identity(recipe())


def test_recipes_and_methods_are_told_apart():
    found = {
        identity(recipe(name=name, method=method))
        for name in ("cifar100-lt-100", "cifar100-lt-50", "cifar10-lt-100")
        for method in METHODS
    }
    assert len(found) == 3 * len(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_a_shipped_recipe_has_no_changed_setting(method):
    assert changed_settings(recipe(method=method)) == ()


@pytest.mark.parametrize("method", ["ldam-drw", "d-ffds"])
def test_the_changed_settings_make_the_recipe_again(method):
    start = "method.start=0.5"
    changes = [start, "method.milestones=[[0.5, 0.1]]", "data.cut=[30, 40, 30]", "trainer.precision=bf16"]
    one = recipe(*changes, "data.augment=[]", "schedule.epochs=40", "trainer.seed=2", method=method)
    again = recipe(*changed_settings(one), "schedule.epochs=40", "trainer.seed=2", method=method)
    assert again == one
    assert start in changed_settings(one)


def test_the_text_of_a_setting_does_not_depend_on_how_it_was_typed():
    assert changed_settings(recipe("method.k=1")) == changed_settings(recipe("method.k=1.0"))
    assert changed_settings(recipe("method.k=9e-1")) == ()


def test_a_recipe_that_is_not_shipped_is_compared_with_the_defaults(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("data: {name: digits, imbalance_factor: 20}\noptimizer: {lr: 0.3}\n")
    one = load_recipe(str(file), method="d-ffds").recipe
    assert changed_settings(one) == ("data.imbalance_factor=20.0", "optimizer.lr=0.3")
    assert protocol(one) == "full"


@pytest.mark.parametrize("source", ["folder", "parquet"])
def test_images_of_ones_own_are_told_apart_by_their_directory(source, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"data: {{name: {source}, root: flowers}}\n")
    flowers, birds = (load_recipe(str(file), more, method="ce").recipe for more in ([], ["data.root=birds"]))
    assert identity(flowers) != identity(birds)
    assert changed_settings(birds) == ("data.root=birds",)
    assert deciding(changed_settings(birds)) == identity(birds).settings


def test_a_loss_of_your_own_is_a_setting():
    base = recipe(method="ce").model_dump()
    one, other = (
        Recipe.model_validate(base | {"method": {"name": "custom", "loss": text}})
        for text in ("MyLoss(a; b=1)", "MyLoss(a; b=2)")
    )
    assert changed_settings(one) == ("method.loss=MyLoss(a; b=1)",)
    assert identity(one) != identity(other)


@pytest.mark.parametrize(("epochs", "name"), [(200, "full"), (40, "40-epochs"), (400, "400-epochs")])
def test_protocol(epochs, name):
    assert protocol(recipe(f"schedule.epochs={epochs}")) == name


def test_protocol_of_a_dataset_with_a_length_of_its_own():
    assert protocol(recipe(name="tiny-imagenet-lt-100")) == "full"
    assert protocol(recipe("schedule.epochs=200", name="tiny-imagenet-lt-100")) == "200-epochs"
