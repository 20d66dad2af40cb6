"""Every method: the losses that it makes of its settings."""

import re
from collections import namedtuple

import pytest
import torch
from torch import nn

from ffds.errors import InputError
from ffds.losses import (
    DifficultyBalancedLoss,
    FFDSLoss,
    FocalLoss,
    GCLLoss,
    InfluenceBalancedLoss,
    LADELoss,
    LDAMLoss,
    LogitAdjustedLoss,
    ProCoLoss,
    SigmoidFocalLoss,
    VSLoss,
    WeightedCrossEntropyLoss,
    class_balanced_weights,
    inverse_frequency_weights,
)
from ffds.losses.cross_entropy import ScaledCrossEntropy
from ffds.methods.registry import METHODS, SETTINGS
from ffds.methods.reweighting import Custom
from ffds.recipes.load import load_recipe

COUNTS = [20, 300, 5, 80]
IB = ["cross-entropy", "influence-balanced"]
WITH_FEATURES = {"influence-balanced", "proco"}
ROW = namedtuple("ROW", "keys stages settings last_loss")
MARGINS, INFLUENCE = {"max_margin": 0.3, "scale": 20.0}, {"alpha": 10.0, "epsilon": 0.5}
FFDS = {"beta": 0.9, "k": 0.5, "num_groups": 3, "gamma_min": 0.5, "gamma_max": 2.0, "curve": "linear"}
FFDS |= {"label_smoothing": 0.2, "weight_scale": "released", "cold_start": "unsmoothed"}
INVERSE = inverse_frequency_weights(COUNTS)
SQUARE_ROOT = WeightedCrossEntropyLoss(inverse_frequency_weights(COUNTS, 0.5))
NOT_OF_THE_LOSS = {"name", "milestones", "start", "observe", "sampler"}
NOT_OF_THE_LOSS |= {"contrast_views", "contrast_augment", "contrast_jitter"}
NOT_OF_THE_LOSS |= {"classifier_epochs", "classifier_milestones"}
PROCO = {"alpha": 0.5, "temperature": 0.2, "dim": 32, "hidden": 8}
NOT_OF_THE_LOSS |= {"neighbors", "seed"}


def weight(*settings):
    return class_balanced_weights(COUNTS, *settings)


def influence(**settings):
    return InfluenceBalancedLoss(**INFLUENCE, **settings)


RELEASED = {"gamma": 2.0, "weighted_probability": True}
SAMPLED = ("over-sampling", "under-sampling", "sqrt-sampling", "progressive-sampling")
PASTED = {"loss": "ce", "power": 0.5, "probability": 0.25, "alpha": 0.4}
WEIGHTED, SCALED = {"beta": 0.9}, {"beta": 0.99, "weight_scale": "none"}
SCALING, DISENTANGLING = {"gamma": 0.2, "tau": 2.0}, {"alpha": 0.5, "penalty": 0.3}
RETRAINED = "classifier_epochs classifier_milestones"
CLOUD = {"cloud": 0.3, "margin": 0.2, "gamma": 2.0}
# method: its own keys, the names of its stages, some settings and the last loss they make
ROWS = {
    "ce": ROW("", ["cross-entropy"], {}, nn.CrossEntropyLoss()),
    "fl": ROW("gamma", ["focal"], {"gamma": 2.5}, FocalLoss(2.5)),
    "cb": ROW("beta weight_scale", ["class-balanced"], SCALED, FocalLoss(0.0, weight=weight(0.99, "none"))),
    "cb-fl": ROW(
        *("beta gamma weight_scale", ["class-balanced focal"], SCALED | {"gamma": 0.5}),
        FocalLoss(0.5, weight=weight(0.99, "none")),
    ),
    "ldam": ROW("max_margin scale", ["ldam"], MARGINS, LDAMLoss(COUNTS, **MARGINS)),
    "ffds": ROW(" ".join(FFDS), ["ffds"], FFDS, FFDSLoss(COUNTS, **FFDS)),
    "ldam-drw": ROW(
        *("max_margin scale beta start", ["ldam", "ldam, re-weighted"], MARGINS | WEIGHTED),
        LDAMLoss(COUNTS, **MARGINS, weight=weight(0.9)),
    ),
    "ib": ROW("alpha epsilon start", IB, INFLUENCE, influence(weight=INVERSE)),
    "ib-cb": ROW("alpha epsilon start beta", IB, INFLUENCE | WEIGHTED, influence(weight=weight(0.9))),
    "ib-fl": ROW(
        *("alpha epsilon start gamma weighted_probability", IB, INFLUENCE | RELEASED),
        influence(**RELEASED, weight=INVERSE),
    ),
    "d-ffds": ROW(
        *(f"{' '.join(FFDS)} start observe", ["cross-entropy", "ffds"], FFDS), FFDSLoss(COUNTS, **FFDS)
    ),
    "ls": ROW("epsilon", ["label smoothing"], {"epsilon": 0.2}, nn.CrossEntropyLoss(label_smoothing=0.2)),
    "rw": ROW("power", ["cross-entropy, re-weighted"], {"power": 0.5}, SQUARE_ROOT),
    "ce-drw": ROW(
        "power start", ["cross-entropy", "cross-entropy, re-weighted"], {"power": 0.5}, SQUARE_ROOT
    ),
    "logit-adjusted": ROW("tau", ["logit-adjusted"], {"tau": 0.5}, LogitAdjustedLoss(COUNTS, tau=0.5)),
    "balanced-softmax": ROW("", ["logit-adjusted"], {}, LogitAdjustedLoss(COUNTS)),
    "vs": ROW("gamma tau", ["vector scaling"], SCALING, VSLoss(COUNTS, **SCALING)),
    "lade": ROW("alpha penalty", ["lade"], DISENTANGLING, LADELoss(COUNTS, **DISENTANGLING)),
    "gcl": ROW(
        "cloud scale classifier_scale margin gamma classifier_epochs classifier_milestones",
        ["gaussian clouded", "classifier"],
        CLOUD | {"scale": 20.0, "classifier_scale": 10.0},
        GCLLoss(COUNTS, **CLOUD, scale=10.0),
    ),
    "proco": ROW(
        *(" ".join([*PROCO, "contrast_views contrast_augment contrast_jitter"]), ["proco"], PROCO),
        ProCoLoss(COUNTS, **PROCO),
    ),
    "sigmoid-fl": ROW("gamma", ["sigmoid focal"], {"gamma": 2.5}, SigmoidFocalLoss(2.5)),
    "sigmoid-cb-fl": ROW(
        *("gamma beta", ["class-balanced sigmoid focal"], WEIGHTED | {"gamma": 0.5}),
        SigmoidFocalLoss(0.5, weight=weight(0.9)),
    ),
    "cdb": ROW("tau", ["difficulty-balanced"], {"tau": 1.5}, DifficultyBalancedLoss(len(COUNTS), tau=1.5)),
    "smote": ROW("neighbors seed", ["cross-entropy"], {}, nn.CrossEntropyLoss()),
    "crt": ROW(RETRAINED, ["cross-entropy", "new classifier"], {}, nn.CrossEntropyLoss()),
    "lws": ROW(RETRAINED, ["cross-entropy", "class scales"], {}, ScaledCrossEntropy(len(COUNTS))),
    "tau-norm": ROW("tau", ["cross-entropy", "tau-norm"], {"tau": 0.5}, nn.CrossEntropyLoss()),
    "ncm": ROW("", ["cross-entropy", "ncm"], {}, nn.CrossEntropyLoss()),
    "posthoc-la": ROW("tau", ["cross-entropy", "posthoc-la"], {"tau": 0.5}, nn.CrossEntropyLoss()),
    **dict.fromkeys(SAMPLED, ROW("", ["cross-entropy"], {}, nn.CrossEntropyLoss())),
    "mixup-drw": ROW(
        *("alpha beta start", ["mixup", "mixup, re-weighted"], WEIGHTED | {"alpha": 0.4}),
        FocalLoss(0.0, weight=weight(0.9)),
    ),
    "cmo": ROW("loss power probability alpha", ["cmo"], PASTED, nn.CrossEntropyLoss()),
}


def made(method, **settings):
    groups = {"num_groups": 2} if "num_groups" in METHODS[method].model_fields else {}
    return METHODS[method](**groups | settings)


def last_loss(method, **settings):
    return made(method, **settings).stages(COUNTS)[-1].loss


def same(ours, theirs):
    assert type(ours) is type(theirs)
    state = theirs.state_dict()
    assert ours.state_dict().keys() == state.keys()
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, state[name], rtol=0, atol=0, equal_nan=True)
    public = [{k: v for k, v in vars(loss).items() if not k.startswith("_")} for loss in (ours, theirs)]
    assert public[0] == public[1]


def test_the_registry_knows_each_method_by_its_own_name():
    assert sorted(METHODS) == sorted(ROWS)
    assert [method().name for method in SETTINGS.values()] == list(SETTINGS) == [*METHODS, "custom"]


def test_every_method_names_its_source():
    assert all(re.search(r", .*\d{4}", method.source) for method in METHODS.values())
    assert all(re.match(r"$|\d\d\.\d+.*, .*\d{4}", method.published) for method in METHODS.values())


@pytest.mark.parametrize("method", METHODS)
def test_keys_stages_and_the_loss_that_settings_make(method):
    row, stages = ROWS[method], made(method).stages(COUNTS)
    assert list(METHODS[method].model_fields) == ["name", "milestones", "sampler", *row.keys.split()]
    assert [stage.name for stage in stages] == row.stages
    assert [stage.with_features for stage in stages] == [name in WITH_FEATURES for name in row.stages]
    assert len(stages) == made(method).phases
    same(last_loss(method, **row.settings), row.last_loss)
    of_the_loss = METHODS[method].model_fields.keys() - NOT_OF_THE_LOSS
    defaults = {key: METHODS[method].model_fields[key].default for key in of_the_loss}
    assert row.settings.keys() == of_the_loss, "no setting is dead"
    assert not row.settings.items() & defaults.items()


def test_first_stages_are_plain():
    for method in ("ib", "ib-cb", "ib-fl", "d-ffds", "ce-drw", "mixup-drw"):
        same(made(method).stages(COUNTS)[0].loss, nn.CrossEntropyLoss())
    same(made("ldam-drw", **MARGINS).stages(COUNTS)[0].loss, LDAMLoss(COUNTS, **MARGINS))
    same(made("gcl", cloud=0.3, scale=9.0).stages(COUNTS)[0].loss, GCLLoss(COUNTS, cloud=0.3, scale=9.0))


@pytest.mark.parametrize("observe", [True, False])
def test_only_deferred_ffds_hands_statistics_on(observe):
    first, second = made("d-ffds", observe=observe).stages(COUNTS)
    assert first.observed_for is (second.loss if observe else None)
    others = [stage for method in METHODS if method != "d-ffds" for stage in made(method).stages(COUNTS)]
    assert {stage.observed_for for stage in [second, *others]} == {None}


def test_proco_asks_for_views_of_its_own():
    stage = made("proco", contrast_views=3, contrast_augment=["hflip"], contrast_jitter=0.5).stages(COUNTS)[0]
    assert stage.views == ({"augment": ("hflip",), "color_jitter_probability": 0.5},) * 3
    for settings, fix in (
        ("data.mixup=1", "set data.mixup and data.cutmix to 0"),
        ("schedule.frozen_epochs=all", "set schedule.frozen_epochs to 0"),
        ("method.contrast_augment=[pad-crop,resized-crop]", "contrast_augment takes one crop"),
    ):
        with pytest.raises(InputError, match=fix):
            load_recipe("digits", [settings], method="proco")


def test_a_loss_of_your_own_has_to_be_given():
    with pytest.raises(InputError, match=r"(?s)custom has no loss.*ffds\.train\(recipe, loss=my_loss\)"):
        Custom(loss="own").stages(COUNTS)


@pytest.mark.parametrize("method", METHODS)
def test_a_class_without_images_is_refused_where_the_counts_matter(method):
    try:
        same(last_loss(method), made(method).stages([7, 5, 3, 2])[-1].loss)
    except AssertionError:
        with pytest.raises(InputError):
            made(method).stages([20, 0, 5, 80])
    else:
        of_counts = {"beta", "max_margin", "alpha", "tau", "power"} if method != "cdb" else {"beta"}
        counted = of_counts & METHODS[method].model_fields.keys()
        assert not counted or hasattr(METHODS[method], "candidates")
