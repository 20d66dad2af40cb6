"""A loss of the user's own is refused before training wherever it would go wrong in silence."""

import functools

import numpy as np
import pytest
import torch
from torch import nn

from ffds.errors import InputError
from ffds.losses import FFDSLoss, FocalLoss, InfluenceBalancedLoss, LDAMLoss
from ffds.training.own_loss import check_is_loss, try_loss
from ffds.training.train import train
from ffds.training.trajectory import loss_identity
from tests.training import tiny

CPU = torch.device("cpu")


class Own(nn.Module):
    """Cross-entropy, and whatever `also` does to the module with the value."""

    def __init__(self, also, **attributes):
        super().__init__()
        self._also = also
        for name, value in attributes.items():
            setattr(self, name, value)
        self.register_buffer("total", torch.zeros(()))
        self.register_buffer("passing", torch.zeros(()), persistent=False)
        self.register_buffer("later", None)

    def forward(self, logits, target):
        value = nn.functional.cross_entropy(logits, target)
        other = self._also(self, value)
        return value if other is None else other


class WithExtraState(nn.CrossEntropyLoss):
    def get_extra_state(self):
        return {"steps": 3}


class CountingEpochs(nn.CrossEntropyLoss):
    epoch = 0

    def observe(self, logits, target):
        pass

    def end_epoch(self):
        self.epoch += 1


@functools.cache
def steps(how):
    def also(self, value):
        if how == "number":
            self.steps += 1
        elif how == "flag":
            self.begun = True
        elif how == "list":
            self.seen.append(value.item())
        elif how == "tensor":
            self.mean = 0.9 * self.mean + 0.1 * value.detach()
        elif how == "graph":
            self.total = self.total + value
            return self.total
        elif how == "passing buffer":
            self.passing += 1
        elif how == "later buffer":
            self.later = value.detach()
        elif how == "growing buffer":
            self.total = torch.cat([self.total.reshape(-1), value.detach()[None]])
        elif how == "numpy":
            return value * np.random.rand()  # noqa: NPY002
        return None

    return also


STATE = {
    "number": {"steps": 0},
    "flag": {},
    "list": {"seen": []},
    "tensor": {"mean": torch.zeros(())},
    "passing buffer": {},
    "later buffer": {},
    "growing buffer": {},
    "numpy": {},
}
NAMED = {"number": "steps", "flag": "begun", "list": "seen", "tensor": "mean", "passing buffer": "passing"}
NAMED |= {"later buffer": "later", "growing buffer": "total", "numpy": "numpy.random"}


@pytest.mark.parametrize("how", STATE)
def test_state_that_no_checkpoint_holds_is_refused(how):
    with pytest.raises(InputError, match=rf"no checkpoint could restore\n  got:     {NAMED[how]}\n"):
        try_loss(Own(steps(how), **STATE[how]), 10, CPU)


def test_state_of_an_epoch_is_refused_too():
    with pytest.raises(InputError, match="got:     epoch\n"):
        try_loss(CountingEpochs(), 10, CPU)


WRONG = {
    "a function": (nn.functional.cross_entropy, "put it into the forward of a torch.nn.Module"),
    "a class": (nn.CrossEntropyLoss, r"give an instance: loss=CrossEntropyLoss\("),
    "a name": ("ce", "got:     loss='ce'"),
    "other state": (WithExtraState(), "got:     _extra_state"),
    "no reduction": (
        nn.CrossEntropyLoss(reduction="none"),
        r"returns a tensor \(8,\)\n.*\n.*reduction=\"mean\"",
    ),
    "one-hot targets": (nn.BCEWithLogitsLoss(), "Target size"),
    "other classes": (nn.CrossEntropyLoss(weight=torch.ones(3)), "RuntimeError: weight tensor"),
    "no gradient": (Own(lambda self, value: value.detach()), "has no gradient"),
    "no tensor": (Own(lambda self, value: (value, value)), "returns tuple"),
    "the last graph": (Own(steps("graph")), "backward through the graph a second time"),
    "its parameter alone": (
        Own(lambda self, value: self.scale**2, scale=nn.Parameter(torch.ones(()))),
        "does not depend on the logits",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_loss_is_refused_with_what_was_expected(wrong, tmp_path, monkeypatch):
    tiny.use(monkeypatch)
    loss, said = WRONG[wrong]
    with pytest.raises(InputError, match=said):
        train("digits", loss=loss, out=tmp_path, shown=False)
    assert not list(tmp_path.rglob("recipe.yaml"))


def test_where_images_are_mixed_a_loss_has_to_take_probabilities():
    for loss in (nn.CrossEntropyLoss(), FFDSLoss(tiny.COUNTS), LDAMLoss(tiny.COUNTS), nn.BCEWithLogitsLoss()):
        try_loss(loss, len(tiny.COUNTS), CPU, mixes=True)
    with pytest.raises(
        InputError, match=r"(?s)target tensor should be 1-D.*fix: +take probabilities .* data\.mixup=0"
    ):
        try_loss(nn.MultiMarginLoss(), len(tiny.COUNTS), CPU, mixes=True)


def test_right_losses_are_tried_on_a_copy():
    counts = tiny.COUNTS
    right = [nn.CrossEntropyLoss(), nn.MultiMarginLoss(), FocalLoss(), tiny.Scaled(), Own(lambda *_: None)]
    for loss in [*right, FFDSLoss(counts, num_groups=3), LDAMLoss(counts)]:
        before = loss_identity(loss)
        check_is_loss(loss)
        try_loss(loss, len(counts), CPU)
        assert loss_identity(loss) == before
    try_loss(Own(lambda self, value: setattr(self, "_last", value.item())), 8, CPU)
    with pytest.raises(InputError, match="features"):
        try_loss(InfluenceBalancedLoss(), len(counts), CPU)
