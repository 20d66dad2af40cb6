import json

import pytest

from ffds.data.sources.ictext.cut import read_parent
from ffds.errors import InputError

BOX = [1.5, 2, 9, 2, 9, 14, 1.5, 14]


def annotations():
    """Two images, four characters, as the form is published, with keys that nobody needs."""
    return {
        "info": {"year": 2023},
        "licenses": [],
        "images": [
            {"id": 7, "file_name": "a.jpg", "height": 30, "width": 40},
            {"id": 3, "file_name": "more/b.jpg", "height": 50, "width": 60},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "bbox": BOX, "category_id": 2, "aesthetic": [0, 1, 0], "ignore": 0},
            {"id": 2, "image_id": 3, "bbox": BOX, "category_id": 1, "area": 90.0, "ignore": 1},
            {"id": 3, "image_id": 7, "bbox": BOX, "category_id": 1},
        ],
        "categories": [{"id": 1, "name": "A"}, {"id": 2, "name": "q"}],
    }


def read(tmp_path, content):
    file = tmp_path / "train.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_parent(file, tmp_path / "images")


def test_characters_come_in_the_order_of_the_file(tmp_path):
    parent = read(tmp_path, annotations())
    assert [character.name for character in parent.characters] == ["q", "A", "A"]
    assert [character.place for character in parent.characters] == [0, 1, 2]
    assert [character.ignored for character in parent.characters] == [False, True, False]
    first, second, _ = (character.photograph for character in parent.characters)
    assert (first.number, first.file, first.height, first.width) == (7, tmp_path / "images/a.jpg", 30, 40)
    assert second.file == tmp_path / "images/more/b.jpg"
    assert parent.characters[0].corners == tuple(BOX)
    assert not parent.rendered


def test_a_rendered_parent_is_known(tmp_path):
    content = annotations() | {"info": {"description": "rendered sample, not ICText; any words"}}
    assert read(tmp_path, content).rendered


def without(key):
    return lambda content: content.pop(key)


def setting(group, place, **keys):
    return lambda content: content[group][place].update(keys)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("images"), r"not annotations of ICText\n.*train\.json\n.*images: Field required"),
        (without("categories"), r"categories: Field required"),
        (setting("annotations", 1, bbox=BOX[:7]), r"annotations\.1\.bbox"),
        (setting("annotations", 1, bbox=[*BOX[:7], "x"]), r"annotations\.1\.bbox\.7"),
        (setting("annotations", 2, ignore=2), r"annotations\.2\.ignore"),
        (setting("images", 0, width=0), r"images\.0\.width"),
        (setting("annotations", 1, image_id=4), r"image that is not listed\n.*annotations\[1\]\n.*got: +4"),
        (setting("annotations", 0, category_id=9), r"category that is not listed\n.*annotations\[0\]\n.*9"),
        (setting("categories", 1, name="?"), r"not a character\n.*categories\[1\]\n.*\?"),
        (setting("categories", 1, name="AB"), r"not a character"),
        (setting("categories", 1, name=""), r"not a character"),
        (setting("images", 1, file_name="../b.jpg"), r"leads out(.*\n)+.*images\[1\]\n.*\.\./b\.jpg"),
        (setting("images", 1, file_name="/b.jpg"), r"leads out"),
        (setting("images", 1, id=7), r"one id\n.*images\[1\]\n.*7"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, words):
    content = annotations()
    change(content)
    with pytest.raises(InputError, match=words):
        read(tmp_path, content)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"images": NaN}'])
def test_what_is_no_such_file(tmp_path, text):
    with pytest.raises(InputError, match=r"not annotations of ICText\n.*train\.json"):
        read(tmp_path, text)
    with pytest.raises(InputError, match=r"cannot be read\n.*gone\.json"):
        read_parent(tmp_path / "gone.json", tmp_path)


def test_many_faults_are_counted(tmp_path):
    content = annotations()
    content["annotations"] *= 4
    for annotation in content["annotations"]:
        annotation["bbox"] = None
    with pytest.raises(InputError, match=r"annotations\.4\.bbox.*; and 7 more"):
        read(tmp_path, content)


def test_not_a_number_is_no_corner(tmp_path):
    with pytest.raises(InputError, match=r"annotations\.0\.bbox\.3"):
        read(tmp_path, json.dumps(annotations()).replace("[1.5, 2, 9, 2,", "[1.5, 2, 9, NaN,", 1))
