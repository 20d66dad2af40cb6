"""The sum over what decides pixels: equal for equal bytes, and for nothing else."""

import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffds.data import decode as digest
from ffds.data.decode import pixels_digest

CONTENTS = st.lists(st.binary(max_size=3), max_size=4)


def of(contents, choices=()):
    with tempfile.TemporaryDirectory() as directory:
        files = [Path(directory, str(k)) for k in range(len(contents))]
        for file, content in zip(files, contents, strict=True):
            file.write_bytes(content)
        return pixels_digest(files, *choices)


@settings(deadline=None, max_examples=50)
@given(CONTENTS.filter(bool), CONTENTS, CONTENTS.filter(bool), CONTENTS)
def test_equal_where_all_parts_are_equal(contents, choices, others, other_choices):
    equal = (contents, choices) == (others, other_choices)
    assert (of(contents, choices) == of(others, other_choices)) == equal
    assert of(contents, choices) == of(contents, choices)


def test_parts_do_not_run_into_each_other():
    found = [of([b"ab", b"c"]), of([b"a", b"bc"]), of([b"abc"]), of([b"abc", b""]), of([b"abc"], [b""])]
    assert len(set(found)) == len(found)


def test_none_where_there_is_nothing_to_read(tmp_path):
    assert of([]) is None
    assert pixels_digest([tmp_path / "gone"]) is None
    assert pixels_digest([tmp_path]) is None


@pytest.fixture
def fresh():
    digest._decoder.cache_clear()
    yield digest._decoder.cache_clear
    digest._decoder.cache_clear()


def test_another_pillow_or_another_reader_is_another_sum(fresh, monkeypatch, tmp_path):
    found = [of([b"a"])]
    fresh()
    assert of([b"a"]) == found[0]
    version = digest.features.version
    for name in digest.BELOW:
        with monkeypatch.context() as patch:
            patch.setattr(
                digest.features, "version", lambda asked, n=name: version(asked) if asked != n else "0"
            )
            fresh()
            found.append(of([b"a"]))
    for name in digest.READERS:
        (tmp_path / name).write_text("other")
        other = next(reader for reader in digest.READERS if reader != name)
        own = digest.resources("ffds.data").joinpath(other).read_bytes()
        (tmp_path / other).write_bytes(own)
        with monkeypatch.context() as patch:
            patch.setattr(digest, "resources", lambda _: tmp_path)
            fresh()
            found.append(of([b"a"]))
    assert all(one != other for one, other in pairwise(found))
    assert len(set(found)) == len(found)
