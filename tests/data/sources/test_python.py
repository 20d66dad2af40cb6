"""Datasets given from Python: the same images give the same dataset, however they are given."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset, random_split
from torchvision.datasets import CIFAR10, ImageFolder
from torchvision.transforms import RandomHorizontalFlip, ToTensor

import ffds
from ffds.data import open_dataset
from ffds.data.content import images_sum
from ffds.data.sources.python import python_source
from ffds.errors import InputError, Interrupted
from ffds.inference.load import evaluate_run
from ffds.recipes.schema import Data
from ffds.run_directory import Run
from tests.data.pictures import same, write_folder

TRAIN, TEST = {"a, b": 6, "Ölung": 4, "07": 3}, {"a, b": 2, "07": 2}
SETTINGS = {
    "model.name": "resnet20",
    "model.pretrained": False,
    "data.image_size": 8,
    "data.eval_resize": None,
}
SETTINGS |= {"data.augment": ["hflip"], "schedule.epochs": 2, "trainer.batch_size": 8}


def data(**settings):
    return Data(name="python", **({"image_size": 32} | settings))


def source(given, **settings):
    return python_source(given, data(**settings))


def opened(given, **settings):
    return open_dataset(data(**settings), source(given, **settings))


def refused(words, given, **settings):
    with pytest.raises(InputError, match=f"(?s){words}"):
        opened(given, **settings)


def train(given, out, **settings):
    return ffds.train(
        "own-folder", data=given, method="ce", overrides=SETTINGS | settings, out=out, shown=False
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("photos"), TRAIN, TEST)


@pytest.fixture(scope="module")
def folders(photos):
    """The splits as torchvision gives them; the test set has two of the classes, with other numbers."""
    return {name: ImageFolder(photos / name) for name in ("train", "test")}


def hub_text(folders):
    """Images and the names of their classes, in a dataset that is shuffled and put in order again."""
    given = datasets.DatasetDict()
    for name, folder in folders.items():
        columns = {"image": [path for path, _ in folder.samples]}
        columns["label"] = [folder.classes[label] for _, label in folder.samples]
        columns["place"] = list(range(len(folder)))
        one = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
        shuffled = one.shuffle(seed=0)
        given[name] = shuffled.select(np.argsort(shuffled["place"])).remove_columns("place")
    return given


def hub_classes(folders):
    """Encoded images, and the hub's numbers, in another order in each split."""
    given = {}
    for name, folder in folders.items():
        classes = datasets.ClassLabel(
            names=sorted(TRAIN) if name == "train" else ["unused", *folder.classes[::-1]]
        )
        features = datasets.Features({"photo": datasets.Image(), "kind": classes})
        images = [{"bytes": Path(path).read_bytes(), "path": path} for path, _ in folder.samples]
        labels = [folder.classes[label] for _, label in folder.samples]
        given[name] = datasets.Dataset.from_dict({"photo": images, "kind": labels}, features)
    return datasets.DatasetDict(given)


def pictures(folders):
    """Pillow's images and names of classes, as a list."""
    return {name: [(image, folder.classes[k]) for image, k in folder] for name, folder in folders.items()}


def joined(folders):
    train = folders["train"]
    parts = [Subset(train, range(5)), Subset(train, range(5, len(train)))]
    return {"Training": ConcatDataset(parts), "val": folders["test"]}


GIVEN = {
    "mapping": dict,
    "pair": lambda folders: (folders["train"], folders["test"]),
    "parts": joined,
    "pictures": pictures,
    "text of the hub": hub_text,
    "classes of the hub": hub_classes,
}


@pytest.mark.parametrize("form", GIVEN)
def test_the_same_images_in_any_form(form, folders, photos):
    """An opened JPEG is not decoded at a part of its size; here no file is so large that it would be."""
    dataset, there = (
        opened(GIVEN[form](folders)),
        open_dataset(Data(name="folder", root=str(photos), image_size=32)),
    )
    same(dataset, there)
    assert dataset.notes == ()


def test_encoded_images_have_one_sum_wherever_they_are(folders, photos):
    known = images_sum(source(dict(folders)))
    assert known == images_sum(source(hub_text(folders))) == images_sum(source(hub_classes(folders)))
    assert known != images_sum(source((folders["test"], folders["test"])))


@pytest.mark.parametrize("form", ["array", "grey array", "bytes", "fractions"])
def test_arrays_and_tensors(form):
    grey = np.arange(40, dtype=np.uint8).repeat(64).reshape(40, 8, 8)
    images = grey[..., None].repeat(3, axis=3)
    forms = {
        "array": images,
        "grey array": grey,
        "bytes": torch.from_numpy(grey)[:, None],
        "fractions": torch.stack([ToTensor()(image) for image in images]),
    }
    labels = torch.arange(40) % 2
    dataset = opened(list(zip(forms[form], labels, strict=True)), test_fraction=0.5, image_size=None)
    assert dataset.class_names == ("0", "1")
    assert dataset.class_counts == [10, 10]
    both = np.concatenate([dataset.train.images, dataset.test.images])
    np.testing.assert_array_equal(both[np.argsort(both[:, 0, 0, 0])], images)


def test_splits_by_name(folders):
    given = {"train": folders["train"], "dev": folders["train"], "test": folders["test"], "more": 0}
    dataset = opened(given)
    assert [len(one) for one in (dataset.train, dataset.validation, dataset.test)] == [13, 13, 4]
    assert dataset.notes == ("in data the following is not used: more",)
    assert len(opened(given, test_split="dev").test) == 13
    refused("test_split=none is no split that can be tested on.*dev, more, test", given, test_split="none")
    refused("data.test_split chooses among splits with names", folders["train"], test_split="test")


def test_a_transform_is_left_out_and_named_where_it_can_be_and_a_random_one_refused(folders, photos):
    changed = ImageFolder(photos / "train", RandomHorizontalFlip(0.5))
    given = {"train": Subset(changed, range(13)), "test": folders["test"]}
    dataset = opened(given)
    same(dataset, opened(folders))
    (note,) = dataset.notes
    assert "data['train'] is read without its transform (RandomHorizontalFlip(p=0.5))" in note
    assert changed.transform is not None
    given["test"] = ImageFolder(photos / "test", target_transform=int)
    refused(r"a dataset changes its labels.*data\['test'\].*ImageFolder", given)
    hub = hub_text(folders)
    (note,) = opened({**hub, "train": hub["train"].with_transform(dict)}).notes
    assert "data['train'] is read without its transform" in note

    class Flipping(torch.utils.data.Dataset):
        def __len__(self):
            return 13

        def __getitem__(self, row):
            image, label = folders["train"][row]
            return RandomHorizontalFlip()(image), label

    refused(r"another one each time it is read.*data\['train'\]\[\d+\].*data.augment", Flipping())


class Own:
    """A dataset without a base class, of one item."""

    def __init__(self, item):
        self.item = item

    def __len__(self):
        return 4

    def __getitem__(self, row):
        if isinstance(self.item, Exception):
            raise self.item
        return self.item


IMAGE = np.zeros((8, 8, 3), dtype=np.uint8)
UNUSABLE = {
    "text": ("cifar10", "not a dataset.*got: +str.*allowed: a datasets.Dataset"),
    "loader": (DataLoader(TensorDataset(torch.zeros(1))), "not a dataset.*DataLoader.*loader.dataset"),
    "stream": (datasets.IterableDataset.from_generator(iter), "not a dataset.*IterableDataset"),
    "three": ((Own(0), Own(0), Own(0)), "data is no pair.*3 values"),
    "no split": ({}, "no split for training.*no split"),
    "two training splits": ({"train": Own(0), "training": Own(0)}, "could be the train set"),
    "only a test set": ({"test": Own(0)}, "no split for training.*test"),
    "no pair": (Own(IMAGE), r"no pair \(image, label\).*data\['train'\]\[0\].*ndarray"),
    "triple": (Own((IMAGE, 0, 1)), "no pair.*tuple of 3"),
    "error": (Own(KeyError("x")), "cannot be read.*KeyError: 'x'"),
    "label": (Own((IMAGE, 0.5)), "neither a whole number nor text.*0.5"),
    "labels": (Own((IMAGE, np.zeros(3))), "neither a whole number nor text"),
    "no image": (Own(("a.png", 0)), r"data\['train'\]\[0\]: not an image.*got: +str"),
    "deep": (Own((Image.new("I;16", (8, 8)), 0)), "more than 8 bits"),
    "planes first": (Own((IMAGE.transpose(2, 0, 1), 0)), r"not the shape of an image.*\(3, 8, 8\)"),
    "normalised": (Own((torch.full((3, 8, 8), -1.0), 0)), "outside of 0 to 1.*before they are normalised"),
    "one class": (Own((IMAGE, 0)), "a single class"),
    "mixed": ([(IMAGE, 0), (IMAGE, "a")], "labels are not all of one kind"),
    "gap": ([(IMAGE, 0), (IMAGE, 2)], "labels are out of range.*0 to 1"),
    "empty": ([], "a column of null holds no labels|no class|no image"),
    "test class": (([(IMAGE, "a"), (IMAGE, "b")], [(IMAGE, "c")]), "class 'c' is no class"),
    "hub without images": (datasets.Dataset.from_dict({"x": [1]}), "no column can be the image.*columns x"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_cannot_be_used(name):
    given, words = UNUSABLE[name]
    refused(words, given)


def test_sizes_that_differ_need_a_size_and_damaged_images_are_told(folders):
    given = pictures(folders)
    with pytest.raises(InputError, match=r"(?s)images differ in size.*data\['train'\]\[1\].*data.image_size"):
        python_source(given, Data(name="python"))
    hub = hub_classes(folders)
    broken = [{"bytes": b"none", "path": None}] * 2
    more = datasets.Dataset.from_dict({"photo": broken, "kind": ["07", "07"]}, hub["train"].features)
    hub["train"] = datasets.concatenate_datasets([hub["train"], more])
    refused(r"an image cannot be read.*data\['train'\]\[13\]", hub)
    dataset = opened(hub, on_bad_image="skip")
    assert len(dataset.train) == 13
    assert [line.partition(":")[0] for line in dataset.skipped] == ["data['train'][13]", "data['train'][14]"]


def test_a_tail_is_cut_and_a_part_held_out_as_of_any_source(tmp_path):
    """CIFAR-10's own class, without its files."""
    cifar = CIFAR10.__new__(CIFAR10)
    cifar.data, cifar.targets = np.zeros((60, 32, 32, 3), dtype=np.uint8), [0, 1, 2] * 20
    cifar.classes, cifar.transforms, cifar.transform, cifar.target_transform = (
        ["x", "y", "z"],
        None,
        repr,  # would give no image
        None,
    )
    dataset = opened(cifar, imbalance_factor=4.0, validation=0.2, image_size=None)
    assert dataset.class_names == ("x", "y", "z")
    assert sum(dataset.class_counts) + len(dataset.validation) == 16 + 8 + 4
    halves = random_split(cifar, [30, 30])
    assert opened(tuple(halves)).class_names == ("x", "y", "z")


def test_a_run_goes_on_where_it_stopped_and_knows_other_images(folders, photos, tmp_path):
    whole = train(dict(folders), tmp_path / "whole")

    class Stop:
        def on_epoch_end(self, run, entry):
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        ffds.train(
            *("own-folder",),
            data=dict(folders),
            method="ce",
            overrides=SETTINGS,
            out=tmp_path / "parted",
            callbacks=[Stop()],
            shown=False,
        )
    parted = train(dict(folders), tmp_path / "parted")
    assert parted.path.name == whole.path.name
    weights = "epoch-0002/model.safetensors"
    assert (parted.checkpoints / weights).read_bytes() == (whole.checkpoints / weights).read_bytes()
    assert train(dict(folders), tmp_path / "parted") == parted == Run.of(parted.recipe, tmp_path / "parted")
    assert train(folders["train"], tmp_path / "parted").path != parted.path
    assert (parted.recipe.data.name, parted.recipe.data.root) == ("python", None)
    for overrides in ([], [f"data.root={photos}"]):
        with pytest.raises(
            InputError, match=r"(?s)given from Python.*data=….*data.name=folder data.root=DIR"
        ):
            evaluate_run(parted, overrides)
    evaluated = evaluate_run(parted, ["data.name=folder", f"data.root={photos}"])
    assert evaluated.scores.accuracy == parted.summary["accuracy"]["last"]
    with pytest.raises(InputError, match=r"(?s)given from Python and by the recipe.*data.root"):
        train(dict(folders), tmp_path, **{"data.root": str(photos)})
