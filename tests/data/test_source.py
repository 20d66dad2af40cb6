import pytest

from ffds.data.open import open_source
from ffds.data.source import root_path
from ffds.errors import InputError
from ffds.recipes.schema import Data

READ_FROM_A_ROOT = ["folder", "parquet", "cifar10", "tiny-imagenet", "ictext", "ictext-sample"]


@pytest.mark.parametrize("name", READ_FROM_A_ROOT)
@pytest.mark.parametrize("download", [False, True])
@pytest.mark.parametrize(
    ("root", "words"), [("~nosuchuser/x", "home directory"), ("a\0b", "null"), ("a\ud800b", "surrogates")]
)
def test_a_root_that_no_path_can_name(name, download, root, words):
    with pytest.raises(InputError, match=rf"data.root is no path\n.*{words}") as error:
        open_source(Data(name=name, root=root, download=download))
    assert repr(root) in str(error.value)


@pytest.mark.parametrize("name", READ_FROM_A_ROOT)
def test_a_root_is_needed(name, tmp_path):
    with pytest.raises(InputError, match=rf"{name} needs data\.root\n.*null(\n.*)+data\.root=DIR"):
        open_source(Data(name=name))
    if name != "ictext-sample":  # which would be made there
        with pytest.raises(InputError, match=r"not a directory that can be read\n.*gone(\n.*)+root=DIR"):
            open_source(Data(name=name, root=str(tmp_path / "gone")))


def test_a_root_below_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert root_path("~/data") == tmp_path / "data"


def test_a_split_cannot_be_chosen_where_splits_have_no_names():
    with pytest.raises(InputError, match=r"data.test_split chooses among splits(.*\n)+.*got: +val"):
        open_source(Data(name="digits", test_split="val"))
