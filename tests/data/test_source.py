import pytest
from pydantic import ValidationError

from ffds.data.open import open_source
from ffds.data.source import root_path
from ffds.errors import InputError
from ffds.recipes.schema import Data

READ_FROM_A_ROOT = ["folder", "parquet", "cifar10", "tiny-imagenet", "ictext", "ictext-sample"]


@pytest.mark.parametrize("name", READ_FROM_A_ROOT)
@pytest.mark.parametrize("download", [False, True])
def test_a_root_below_the_home_of_nobody(name, download):
    with pytest.raises(InputError, match=r"data.root is no path\n.*~nosuchuser/x: .*home directory"):
        open_source(Data(name=name, root="~nosuchuser/x", download=download))


@pytest.mark.parametrize("root", ["a\0b", "a\ud800b"])
def test_a_root_that_no_path_can_name_is_no_setting(root):
    with pytest.raises(ValidationError, match="root"):
        Data(name="folder", root=root)


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
