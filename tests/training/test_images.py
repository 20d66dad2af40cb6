"""Images that change under a run: nothing goes on from what was learnt on others, nothing is passed off."""

from dataclasses import replace

import pytest

from ffds.data.dataset import Split
from ffds.errors import InputError, Interrupted
from ffds.jobs.several import train_all
from ffds.run_directory import Run
from ffds.training.train import train_recipe
from tests.training import tiny


def inverted():
    images = tiny.dataset()
    return replace(images, train=Split(255 - images.train.images, images.train.labels))


def test_a_run_does_not_go_on_from_other_images(monkeypatch, tmp_path):
    recipe = tiny.recipe(method="ce")
    with monkeypatch.context() as patch:
        tiny.use(patch)
        tiny.stop_after(patch, 2)
        with pytest.raises(Interrupted):
            train_recipe(recipe, out=tmp_path, shown=False)
    tiny.use(monkeypatch, inverted())
    with pytest.raises(InputError, match=r"another run(.|\n)*images: \w{16} there, \w{16} here"):
        train_recipe(recipe, out=tmp_path, shown=False)


def test_a_finished_run_is_no_result_on_other_images(monkeypatch, tmp_path):
    recipe = tiny.recipe(method="ce")
    tiny.use(monkeypatch)
    run = train_recipe(recipe, out=tmp_path, shown=False)
    assert train_recipe(recipe, out=tmp_path, shown=False, dataset=tiny.dataset()) == run
    assert not train_all([recipe], out=tmp_path, shown=False)
    with pytest.raises(InputError, match="on other images"):
        train_recipe(recipe, out=tmp_path, shown=False, dataset=inverted())

    tiny.use(monkeypatch, inverted())
    other = tiny.recipe(method="fl")
    failures = train_all([recipe, other], out=tmp_path, shown=False)
    assert list(failures) == [run.path]
    assert Run.of(other, tmp_path).done
