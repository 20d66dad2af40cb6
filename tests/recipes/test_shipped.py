"""The shipped recipes against the settings of the paper and its released code."""

import pytest

from ffds.methods.registry import METHODS
from ffds.recipes.load import load_recipe, recipe_text, shipped_recipes
from ffds.recipes.schedule import lr_factor, start_epoch

NAMES = [
    *("cifar10-lt-10", "cifar10-lt-100", "cifar10-lt-100-autoaugment", "cifar10-lt-50"),
    *("cifar100-lt-10", "cifar100-lt-100", "cifar100-lt-100-autoaugment", "cifar100-lt-100-autoaugment-400"),
    *(
        "cifar100-lt-100-autoaugment-ema",
        "cifar100-lt-100-mixup-drw",
        "cifar100-lt-100-proco",
        "cifar100-lt-50",
    ),
    *(
        "digits",
        "ictext-lt-100",
        "ictext-lt-18",
        "own-folder",
        "own-folder-lift",
        "tiny-imagenet-lt-10",
        "tiny-imagenet-lt-100",
    ),
]
# recipe: gamma_min, gamma_max, num_groups, beta; D-FFDS, FFDS and CE of Table 1a
PAPER = {
    "cifar10-lt-100": (0.0, 3.0, 3, 0.9999, "79.93", "75.60", "70.47"),
    "cifar10-lt-50": (1.0, 4.5, 1, 0.9999, "82.94", "79.82", "77.21"),
    "cifar10-lt-10": (2.5, 4.5, 2, 0.9999, "88.48", "87.46", "86.40"),
    "cifar100-lt-100": (0.0, 4.5, 10, 0.9999, "43.46", "40.74", "38.85"),
    "cifar100-lt-50": (1.5, 5.0, 5, 0.9999, "48.48", "45.67", "43.24"),
    "cifar100-lt-10": (2.5, 4.0, 5, 0.999, "58.82", "58.66", "56.09"),
    "tiny-imagenet-lt-100": (0.0, 3.0, 10, 0.9999, "43.86", "42.34", "38.19"),
    "tiny-imagenet-lt-10": (0.0, 3.0, 10, 0.9999, "58.31", "56.11", "53.22"),
    "ictext-lt-100": (0.7, 2.4, 5, 0.9999, "79.56", "76.89", "74.22"),
    "ictext-lt-18": (1.2, 3.8, 5, 0.9999, "85.98", "85.40", "83.51"),
}
K = {"ictext-lt-100": 0.7, "ictext-lt-18": 0.7}
CURVE = {"ictext-lt-18": "linear"}
START = {"cifar10": 0.65, "cifar100": 0.65, "tiny-imagenet": 0.1, "ictext": 0.5}
CUTS = {
    "cifar10": (3, 4, 3),
    "cifar100": (35, 35, 30),
    "tiny-imagenet-lt-100": (70, 70, 60),
    "tiny-imagenet-lt-10": (66, 67, 67),
    "ictext": (12, 12, 12),
}
COMMON = {
    "data": {"profile": "exp", "seed": 0, "validation": 0.0, "image_size": None, "eval_resize": None},
    "model": {"name": "resnet32", "pretrained": False},
    "optimizer": {"lr": 0.1, "momentum": 0.9, "weight_decay": 2e-4, "nesterov": False},
    "schedule": {"epochs": 200, "warmup": 5, "milestones": ((0.8, 0.1), (0.9, 0.01))},
    "trainer": {"batch_size": 128},
}
CIFAR = {"data": {"augment": ("pad-crop", "hflip"), "padding": 4}}
CIFAR["data"] |= {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}
OWN = {
    "cifar10": CIFAR,
    "cifar100": CIFAR,
    "tiny-imagenet": {
        "data": {
            **{"augment": ("resized-crop", "hflip"), "image_size": 224, "eval_resize": 256},
            **{"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
        },
        "model": {"name": "timm/resnet18", "pretrained": True},
        "schedule": {"epochs": 100, "milestones": ((0.15, 0.01),)},
    },
    "ictext": {
        "data": {
            **{"augment": ("hflip", "vflip"), "image_size": 32},
            **{"mean": (0.276, 0.262, 0.261), "std": (0.239, 0.229, 0.227)},
        },
        "model": {"name": "timm/resnet18"},
        "schedule": {"epochs": 100, "milestones": ((0.6, 0.01), (0.8, 0.0001))},
        "trainer": {"batch_size": 256},
    },
}


def test_the_shipped_recipes_are_frozen():
    assert list(shipped_recipes()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_header_is_a_document_for_people(name):
    own = {"lift": "logit-adjusted", "autoaugment": "balanced-softmax"}
    own |= {method: method for method in ("mixup-drw", "proco")}
    expected = next((method for part, method in own.items() if part in name), "d-ffds")
    assert load_recipe(name).recipe.method.name == expected
    header = recipe_text(name).split("\n\n", maxsplit=1)[0].splitlines()
    assert all(line.startswith("#") for line in header)
    title = shipped_recipes()[name]
    assert header[0] == f"# {title}"
    assert 20 < len(title) < 105
    for word in ("Paper", "Data", "Hardware", "Expected", "Command"):
        assert sum(line.startswith(f"# {word} ") for line in header) == 1, word
    assert f"ffds train {name}" in "\n".join(header)


@pytest.mark.parametrize("name", PAPER)
def test_data_network_and_schedule_are_the_papers(name):
    dataset, _, factor = name.rpartition("-lt-")
    dumped = load_recipe(name).recipe.model_dump()
    for section, settings in COMMON.items():
        expected = settings | OWN[dataset].get(section, {})
        assert {key: dumped[section][key] for key in expected} == expected
    assert dumped["data"]["name"] == dataset
    assert dumped["data"]["imbalance_factor"] == (None if name == "ictext-lt-18" else float(factor))
    assert dumped["data"]["cut"] == CUTS.get(name, CUTS.get(dataset))


@pytest.mark.parametrize("method", ["ffds", "d-ffds"])
@pytest.mark.parametrize("name", PAPER)
def test_the_settings_of_ffds_are_those_of_the_released_code(name, method):
    settings = load_recipe(name, method=method).recipe.method.model_dump()
    expected = dict(zip(("gamma_min", "gamma_max", "num_groups", "beta"), PAPER[name], strict=False))
    expected |= {"k": K.get(name, 0.9), "curve": CURVE.get(name, "concave")}
    expected |= {"label_smoothing": 0.1, "milestones": None}
    if method == "d-ffds":
        expected["start"] = START[name.rpartition("-lt-")[0]]
    assert {key: settings[key] for key in expected} == expected


@pytest.mark.parametrize("name", PAPER)
def test_the_header_quotes_the_papers_numbers_as_the_papers(name):
    *_, deferred, plain, baseline = PAPER[name]
    expected = f"the paper's numbers, top-1 in %: D-FFDS {deferred}, FFDS {plain}, CE {baseline}"
    assert expected in recipe_text(name)


@pytest.mark.parametrize("name", PAPER)
def test_baselines_have_the_settings_of_their_own_released_code(name):
    for method, settings in METHODS.items():
        if method not in {"ffds", "d-ffds"}:
            # Cui et al. found that only a small β helps on CIFAR-100.
            own = {"beta": 0.9} if name.startswith("cifar100") and method == "sigmoid-cb-fl" else {}
            assert load_recipe(name, method=method).recipe.method == settings(**own)


def test_lift_has_the_settings_of_its_released_code():
    recipe = load_recipe("own-folder-lift").recipe
    assert (recipe.head, recipe.head_scale, recipe.method.name) == ("cosine", 25, "logit-adjusted")
    assert (recipe.model.head_init, recipe.model.adapt, recipe.model.adapter_dim) == (
        *("class-means", "adaptformer"),
        None,
    )
    optimizer, schedule = recipe.optimizer, recipe.schedule
    assert (optimizer.name, optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (
        "sgd",
        0.01,
        0.9,
        5e-4,
    )
    assert (schedule.epochs, schedule.warmup, schedule.shape) == (10, 0, "cosine")
    assert (recipe.trainer.batch_size, recipe.data.mean, recipe.data.std) == (128, (0.5,) * 3, (0.5,) * 3)


PUBLISHED = {
    "cifar100-lt-100-autoaugment": {0: 0.02, 4: 0.1, 159: 0.1, 160: 0.01, 180: 0.001, 199: 0.001},
    "cifar100-lt-100-autoaugment-400": {0: 0.01, 9: 0.1, 319: 0.1, 320: 0.01, 360: 0.001, 399: 0.001},
    "cifar100-lt-100-mixup-drw": {0: 0.02, 4: 0.1, 149: 0.1, 150: 0.01, 249: 0.01, 250: 0.001, 299: 0.001},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_learning_rates_are_those_of_the_released_codes(name):
    recipe, rates = load_recipe(name).recipe, PUBLISHED[name]
    assert recipe.schedule.epochs == max(rates) + 1
    assert {epoch: recipe.optimizer.lr * lr_factor(recipe, epoch) for epoch in rates} == pytest.approx(rates)
    if name.endswith("mixup-drw"):
        assert start_epoch(recipe.method, recipe.schedule.epochs) == 250
