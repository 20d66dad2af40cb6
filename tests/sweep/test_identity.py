"""What makes two sweeps one study."""

import json
from dataclasses import replace

import numpy as np
import pytest

from ffds.data.dataset import Split
from ffds.errors import InputError
from ffds.sweep.identity import identity, refuse_other, study_name
from ffds.sweep.recipe import searched_recipe, with_validation
from ffds.sweep.space import Space
from tests.training import tiny


def of(*overrides, images=None, name="digits"):
    recipe = with_validation(searched_recipe(name, overrides))
    return identity(recipe, images or tiny.dataset(validation=True), Space.around(recipe.method, 10))


@pytest.mark.parametrize(
    "change", ["data.root=elsewhere", "method.k=0.1", "method.gamma_max=5", "method.num_groups=10"]
)
def test_places_and_searched_settings_are_no_part_of_it(change):
    assert of(change) == of()


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("schedule.epochs=7", "schedule.epochs"),
        ("trainer.seed=1", "trainer.seed"),
        ("data.validation=0.2", "data.validation"),
        ("method.label_smoothing=0", "method.label_smoothing"),
        ("method.start=0.5", "method.start"),
        ("method=ffds", "method.name"),
        ("method.num_groups=2", "searched num_groups"),
        ("method.gamma_max=6", "searched gamma_min <= gamma_max"),
    ],
)
def test_every_other_setting_is(change, key):
    ours, theirs = of(change), of()
    assert ours[key] != theirs[key]
    with pytest.raises(InputError) as error:
        refuse_other("mine", ours, theirs)
    assert f"{key}: {json.dumps(ours[key])}" in str(error.value)
    assert f"{key}: {json.dumps(theirs[key])}" in str(error.value)
    assert "trainer.batch_size" not in str(error.value), "only what differs"


def changed(split, *, labels=False):
    if labels:
        return Split(split.images, np.roll(split.labels, 1))
    return Split(255 - split.images, split.labels)


@pytest.mark.parametrize("labels", [False, True])
def test_the_images_are_part_of_it_but_not_those_of_the_test(labels):
    images = tiny.dataset(validation=True)
    assert of(images=replace(images, test=changed(images.test, labels=labels))) == of()
    for part in ("train", "validation"):
        other = of(images=replace(images, **{part: changed(getattr(images, part), labels=labels)}))
        assert {key for key in other if other[key] != of()[key]} == {"images"}


def test_it_survives_json_and_names_the_study():
    found = of()
    assert json.loads(json.dumps(found)) == found
    refuse_other("mine", found, json.loads(json.dumps(found)))
    recipe = searched_recipe("digits")
    assert study_name(recipe, found) == study_name(recipe, dict(reversed(found.items())))
    assert study_name(recipe, found).startswith("d-ffds-seed0-")
    assert study_name(recipe, found) != study_name(recipe, of("schedule.epochs=7"))
