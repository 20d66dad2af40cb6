import json
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from ffds.data import open_dataset
from ffds.data.open import open_source
from ffds.data.sources.ictext import render as sample
from ffds.data.sources.ictext.layout import CHARACTERS, PAPER, Sizes
from ffds.data.sources.ictext.render import rendered_sample
from ffds.data.sources.registry import SOURCES
from ffds.errors import InputError
from ffds.recipes.schema import Data

SMALL = Sizes(natural=tuple(count // 50 for count in PAPER.natural), head=100, test=2)
TINY = Sizes(natural=(3, *[1] * 35), head=100, test=1)


def files(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def settings(root, **given):
    return Data(name="ictext-sample", root=str(root), **{"image_size": 16, **given})


@pytest.fixture
def small(monkeypatch):
    """Fiftieths of the paper's counts."""
    monkeypatch.setattr(sample, "rendered_sample", partial(rendered_sample, sizes=SMALL))
    monkeypatch.setitem(SOURCES, "ictext-sample", replace(SOURCES["ictext-sample"], largest_class=100))


@pytest.mark.usefixtures("small")
def test_both_imbalance_factors_come_from_one_rendering(tmp_path):
    natural = open_dataset(settings(tmp_path / "data"))
    assert tuple(natural.class_counts) == SMALL.natural
    assert natural.class_names == tuple(CHARACTERS)
    assert np.bincount(natural.test.labels).tolist() == [2] * 36
    root = tmp_path / "data" / "ictext-sample-seed0"
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    tail = open_dataset(settings(tmp_path / "data", imbalance_factor=100.0))
    assert tail.class_counts == [int(100 * 100 ** (-i / 35)) for i in range(36)]
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert [path.name for path in (tmp_path / "data").iterdir()] == [root.name]
    for dataset in (natural, tail):
        assert dataset.source == f"rendered sample, not ICText: {root}"
        assert dataset.train.images.shape[1:] == (16, 16, 3)
    assert "rendered sample, not ICText" in (root / "README.md").read_text()
    assert json.loads((root / "rendered-sample.json").read_text())["what"] == "rendered sample, not ICText"


def test_the_text_on_the_chips_has_the_papers_counts(monkeypatch):
    monkeypatch.setattr(sample, "draw_chip", lambda text, seed: (text, seed))
    counts = dict(zip(CHARACTERS, PAPER.natural, strict=True))
    chips = list(sample._chips("train", counts, 0))
    assert Counter(name for text, _ in chips for name in text) == counts
    assert len({seed for _, seed in chips}) == len(chips)
    assert [text for text, _ in chips] != [text for text, _ in sample._chips("train", counts, 1)]
    tests = list(sample._chips("val", dict.fromkeys(CHARACTERS, PAPER.test), 0))
    assert Counter(name for text, _ in tests for name in text) == dict.fromkeys(CHARACTERS, 175)
    assert not {seed for _, seed in chips} & {seed for _, seed in tests}


def test_the_seed_decides_every_byte(tmp_path):
    first, again = (rendered_sample(tmp_path / name, 0, TINY) for name in ("a", "b"))
    assert files(first) == files(again)
    other = rendered_sample(tmp_path / "a", 7, TINY)
    assert other.name == "ictext-sample-seed7"
    assert first.is_dir()
    pictures = [
        {content for path, content in files(root).items() if path.suffix == ".png"} for root in (first, other)
    ]
    assert len(pictures[0]) == 38 + 36
    assert not pictures[0] & pictures[1]


@pytest.mark.parametrize("content", [None, "", "{", '{"what": "else"}', '{"format": 0, "seed": 0}'], ids=str)
def test_another_sample_is_not_taken_for_this_one(tmp_path, content):
    root = rendered_sample(tmp_path, 0, TINY)
    marker = root / "rendered-sample.json"
    marker.unlink() if content is None else marker.write_text(content)
    with pytest.raises(
        InputError, match=r"not the rendered sample(.*\n)+.*seed 0(.*\n)+.*remove the directory"
    ):
        rendered_sample(tmp_path, 0, TINY)


def test_other_sizes_are_another_sample(tmp_path):
    rendered_sample(tmp_path, 0, TINY)
    with pytest.raises(InputError, match=r"not the rendered sample(.*\n)+.*68307 training images"):
        rendered_sample(tmp_path, 0)


@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError("No space left on device")])
def test_an_unfinished_rendering_leaves_nothing(tmp_path, monkeypatch, fault):
    drawn, draw = [], sample.draw_chip

    def failing(text, seed):
        drawn.append(seed)
        if len(drawn) == 3:
            raise fault
        return draw(text, seed)

    monkeypatch.setattr(sample, "draw_chip", failing)
    with pytest.raises((KeyboardInterrupt, InputError), match=r"No space left on device|^$"):
        rendered_sample(tmp_path, 0, TINY)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert rendered_sample(tmp_path, 0, TINY).is_dir()


def test_of_two_processes_the_faster_one_counts(tmp_path, monkeypatch):
    draw = sample.draw_chip

    def overtaken(text, seed):
        if not (tmp_path / "ictext-sample-seed0").exists():
            monkeypatch.setattr(sample, "draw_chip", draw)
            rendered_sample(tmp_path, 0, TINY)
        return draw(text, seed)

    monkeypatch.setattr(sample, "draw_chip", overtaken)
    root = rendered_sample(tmp_path, 0, TINY)
    assert [path.name for path in tmp_path.iterdir()] == [root.name]


def test_a_directory_must_be_given_and_writable(tmp_path):
    with pytest.raises(InputError, match=r"ictext-sample needs data\.root"):
        open_source(Data(name="ictext-sample"))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be rendered\n.*file"):
        rendered_sample(tmp_path / "file", 0, TINY)
