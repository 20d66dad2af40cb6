from __future__ import annotations

from pathlib import Path

import pytest

from ffds.errors import InputError
from ffds.recipes.load import MAX_BYTES, read_recipe, shipped_recipes


def test_an_unknown_name_lists_the_shipped_and_the_nearest() -> None:
    with pytest.raises(InputError) as caught:
        read_recipe("cifar100-lt-10O")
    assert "unknown recipe 'cifar100-lt-10O'" in str(caught.value)
    assert f"allowed: {', '.join(shipped_recipes())}" in str(caught.value)
    assert "did you mean cifar100-lt-10?" in str(caught.value)


def test_a_file_is_called_as_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\n")
    source = read_recipe(str(path))
    assert (source.text, source.label, source.name) == ("a: 1\r\n", str(path), "mine")


@pytest.mark.parametrize(
    "name", ["missing.yaml", "missing/digits", "digits.yml", "\0.yaml", "x" * 5000 + ".yaml"]
)
def test_a_file_that_is_not_there(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such recipe file|cannot be read"):
        read_recipe(str(tmp_path / name))


def test_a_directory_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such recipe file"):
        read_recipe(str(tmp_path))


def test_not_utf8_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "latin1.yaml"
    path.write_bytes("a: 1\nb: größe\n".encode("latin-1"))
    with pytest.raises(InputError) as caught:
        read_recipe(str(path))
    assert "not UTF-8 text" in str(caught.value)
    assert f"{path}:2\n" in str(caught.value)


def test_size_is_limited(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_bytes(b"#" * MAX_BYTES)
    assert len(read_recipe(str(path)).text) == MAX_BYTES
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(InputError, match="too large"):
        read_recipe(str(path))
