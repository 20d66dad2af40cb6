"""How a recipe comes about: which file, which settings win, where each came from, and what is refused."""

import re
from pathlib import Path

import pytest

from ffds.errors import InputError
from ffds.methods.registry import METHODS
from ffds.recipes.documents import MAX_BYTES
from ffds.recipes.load import (
    dump_recipe,
    load_recipe,
    override_texts,
    parse_overrides,
    planned_recipe,
    shipped_recipes,
)
from ffds.recipes.schema import Data, Recipe

FILE = """\
data:
  name: digits
  cut: [3, 4, 3]
optimizer: {lr: 0.2,
            momentum: 0.5}
method:
  name: ffds
  k: 0.3
methods:
  ffds: &shared
    k: 0.2
    num_groups: 3
    beta: 0.99
  d-ffds:
    <<: *shared
    start: 0.5
"""


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize(
    ("overrides", "method", "expected"),
    [
        (
            ["method.beta=0.9"],
            None,
            {"name": "ffds", "gamma_max": 3.0, "num_groups": 3, "k": 0.3, "beta": 0.9},
        ),
        # Another method takes its own entry, and nothing of the file's method.
        (["method=d-ffds"], None, {"name": "d-ffds", "k": 0.2, "start": 0.5, "num_groups": 3}),
        ([], "d-ffds", {"name": "d-ffds", "k": 0.2, "start": 0.5, "num_groups": 3}),
        ([], "ldam", METHODS["ldam"]().model_dump()),
        (["method.k=0.7", "method=d-ffds"], None, {"name": "d-ffds", "k": 0.7, "beta": 0.99}),
        (["method=ce"], "d-ffds", {"name": "ce"}),
        (["methods.d-ffds.start=0.25"], "d-ffds", {"start": 0.25}),
    ],
)
def test_defaults_then_methods_then_method_then_command_line(overrides, method, expected, recipe_file):
    settings = load_recipe(str(recipe_file), overrides, method=method).recipe.method.model_dump()
    assert settings | expected == settings


def test_without_a_method_it_is_cross_entropy(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text("data: {name: digits}\n")
    resolved = load_recipe(str(path))
    assert resolved.recipe == Recipe(name="small", data=Data(name="digits"))
    assert resolved.origin["method.name"] == "default"


def test_the_origin_of_every_leaf(recipe_file):
    overrides = ["data.root=../x", "method=d-ffds", "method.gamma_max=4"]
    resolved = load_recipe(str(recipe_file), overrides)
    assert list(resolved.origin) == list(resolved.recipe.by_key)
    lines = {"data.name": 2, "data.cut": 3, "optimizer.lr": 4, "optimizer.momentum": 5}
    lines |= {"method.k": 11, "method.num_groups": 12, "method.beta": 13, "method.start": 16}
    assert {key: origin for key, origin in resolved.origin.items() if origin != "default"} == {
        "name": str(recipe_file),
        **{key: f"{recipe_file}:{line}" for key, line in lines.items()},
        **dict.fromkeys(("data.root", "method.name", "method.gamma_max"), "command line"),
    }
    own = load_recipe(str(recipe_file)).origin
    assert [own[f"method.{key}"][-2:] for key in ("name", "k", "num_groups")] == [":7", ":8", "12"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", shipped_recipes())
def test_a_dumped_recipe_loads_as_an_equal_one(name, method, tmp_path):
    overrides = ["trainer.precision=16", "optimizer.weight_decay=1e-6"]
    needs_bias = METHODS[method].linear_only or METHODS[method].prior_bias
    if needs_bias and load_recipe(name).recipe.model.head == "cosine":
        with pytest.raises(InputError, match=r"set model\.head to auto or linear"):
            load_recipe(name, overrides, method=method)
        return
    recipe = load_recipe(name, overrides, method=method).recipe
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    again = load_recipe(str(tmp_path / "recipe.yaml")).recipe
    assert (again, again.config_hash) == (recipe, recipe.config_hash)
    assert (again.name, again.method.name) == (name, method)


def test_the_name_is_that_of_the_file_unless_it_says_another(tmp_path):
    path = tmp_path / "a b.yaml"
    path.write_text("data: {name: digits}\n")
    with pytest.raises(InputError, match=rf"unknown value of name\n  where:   {re.escape(str(path))}\n"):
        load_recipe(str(path))
    assert load_recipe(str(path), ["name=ab"]).recipe.name == "ab"
    path.write_text("name: c.d-e_f\ndata: {name: digits}\n")
    assert load_recipe(str(path)).recipe.name == "c.d-e_f"


# Which file


def test_an_unknown_name_lists_the_shipped_and_the_nearest():
    words = f"unknown recipe 'cifar100-lt-10O'\n  allowed: {', '.join(shipped_recipes())}, "
    with pytest.raises(InputError, match=rf"{words}.*\n  fix:     did you mean cifar100-lt-10\?"):
        load_recipe("cifar100-lt-10O")


@pytest.mark.parametrize(
    "name", ["missing.yaml", "missing/digits", "\0.yaml", "x" * 5000 + ".yaml", "directory.yaml"]
)
def test_a_file_that_is_not_there(name, tmp_path):
    (tmp_path / "directory.yaml").mkdir()
    with pytest.raises(InputError, match=r"no such recipe file|cannot be read"):
        load_recipe(str(tmp_path / name))


def test_files_of_windows_are_read_others_and_large_ones_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xef\xbb\xbfdata:\r\n  name: digits\r\n")
    assert load_recipe(str(path)).origin["data.name"] == f"{path}:2"
    path.write_bytes("a: 1\nb: größe\n".encode("latin-1"))
    with pytest.raises(InputError, match=rf"not UTF-8 text\n  where:   {re.escape(str(path))}:2\n"):
        load_recipe(str(path))
    path.write_bytes(b"data: {name: digits}\n".ljust(MAX_BYTES, b"#"))
    assert load_recipe(str(path)).recipe.name == "mine"
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(InputError, match="too large"):
        load_recipe(str(path))


# A recipe that starts from another


def written(directory, **texts):
    """Recipe files by name; returns the path of the last one."""
    directory.mkdir(exist_ok=True)
    for name, text in texts.items():
        path = directory / f"{name}.yaml"
        path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_chain_of_recipes_with_the_origin_of_each_value(tmp_path):
    written(tmp_path / "below", middle="extends: ../base.yaml\nname: other\ndata: {cut: [2, 6, 2]}\n")
    written(tmp_path, base=f"extends: own-folder\n{FILE}")
    mine = written(tmp_path, mine="extends: below/middle.yaml\noptimizer:\n  lr: 0.5\n")
    resolved = load_recipe(mine, ["optimizer.momentum=0.1"])
    recipe, origin = resolved.recipe, resolved.origin
    assert (recipe.name, recipe.data.name, recipe.data.cut, recipe.data.image_size) == (
        *("mine", "digits", (2, 6, 2), 224),
    )
    assert (recipe.optimizer.lr, recipe.optimizer.momentum, recipe.optimizer.weight_decay) == (0.5, 0.1, 2e-4)
    assert (recipe.method.name, recipe.method.k, recipe.method.num_groups) == ("ffds", 0.3, 3)
    ends = {"name": "mine.yaml", "optimizer.lr": "mine.yaml:3", "data.cut": "middle.yaml:3"}
    ends |= {"method.k": "base.yaml:9", "optimizer.momentum": "command line"}
    assert all(origin[key].endswith(end) for key, end in ends.items()), origin
    assert origin["model.name"].startswith("own-folder.yaml:")
    written(tmp_path / "elsewhere", recipe=dump_recipe(recipe))
    assert load_recipe(str(tmp_path / "elsewhere" / "recipe.yaml")).recipe == recipe


@pytest.mark.parametrize(
    ("over", "method", "expected"),
    [
        ("method: {k: 0.9}", None, {"name": "ffds", "k": 0.9, "beta": 0.99}),
        ("method: ffds", None, {"name": "ffds", "k": 0.3}),
        # Another method begins with its own entry, and the one left behind keeps its settings.
        ("method: d-ffds", None, {"name": "d-ffds", "k": 0.2, "start": 0.5}),
        ("method: d-ffds", "ffds", {"name": "ffds", "k": 0.3, "beta": 0.99}),
        ("methods: {d-ffds: {start: 0.25}}", "d-ffds", {"k": 0.2, "start": 0.25}),
    ],
)
def test_the_method_of_a_recipe_that_starts_from_another(over, method, expected, tmp_path):
    path = written(tmp_path, base=FILE, mine=f"extends: base.yaml\n{over}\n")
    settings = load_recipe(path, method=method).recipe.method.model_dump()
    assert settings | expected == settings


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("extends: own-foldr", r"(?s)unknown recipe 'own-foldr'\n  where: +.*mine\.yaml:1:1\n.*own-folder\?"),
        ("extends: no.yaml", r"no such recipe file\n  where: +.*no\.yaml, named at .*mine\.yaml:1:1"),
        ("extends: [digits]", r"extends has the wrong type\n  where: +.*mine\.yaml:1:1"),
        ("extends: ../d/mine.yaml", r"(?s)itself\n.*mine\.yaml extends .*mine\.yaml"),
        ("extends: around.yaml", r"itself\n  where: +.*around\.yaml:1:1"),
        (
            "extends: wrong.yaml",
            r"(?s)twice.*wrong\.yaml:4.*schedule\.epocs\n  where: +.*wrong\.yaml:2:",
        ),
        ("extends: broken.yaml", r"not valid YAML.*\n  where: +.*broken\.yaml:2"),
        ("data: {extends: digits}", "unknown key data.extends"),
    ],
)
def test_a_recipe_that_cannot_start_from_another(text, words, tmp_path):
    around, wrong = "extends: mine.yaml", "schedule:\n  epocs: 3\n  warmup: 1\n  warmup: 2"
    path = written(tmp_path / "d", around=around, wrong=wrong, broken="{", mine=f"{text}\n")
    with pytest.raises(InputError, match=words):
        load_recipe(path)


# Overrides


def test_of_two_the_later_counts():
    texts = ["method=ce", "trainer.seed=1", "method.name=ffds", "trainer.seed = 2", "data.root ="]
    tree, _ = parse_overrides(texts)
    assert tree.plain() == {"method": {"name": "ffds"}, "trainer": {"seed": 2}, "data": {"root": None}}


@pytest.mark.parametrize("text", ["a#b", "'pics #2'", '"#2"', "😀#", "/x/a=b"])
def test_a_value_may_hold_an_equals_sign_and_a_hash_that_begins_no_comment(text):
    assert parse_overrides([f"data.root={text}"])[0].plain() == {"data": {"root": text.strip("'\"")}}


UNREADABLE = ("@x", "[1,2", "pics #2", "#2", "'😀' # x", "[3,4,3] # x", "\udcff")


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("trainer.seed", "trainer.seed is no override"),
        ("=3", "=3 is no override"),
        ("", " is no override"),
        *((f"data.root={text}", "cannot read the value of data.root") for text in UNREADABLE),
        ("data.root=!!python/name:os.system x", "tag !!python/name:os.system is refused"),
        ("data={a: 1, a: 2}", "key data.a is given twice"),
    ],
)
def test_what_cannot_be_read_is_named_and_the_others_still_count(override, what):
    tree, problems = parse_overrides([override, "trainer.seed=3"])
    assert [str(problem).partition("\n")[0] for problem in problems] == [what]
    assert "where:   command line" in str(problems[0])
    assert tree.plain()["trainer"] == {"seed": 3}


# One run of many


def test_a_planned_recipe_is_the_recipe_with_method_and_seed():
    planned = planned_recipe("digits", ["schedule.epochs=2"], method="ce", seed=3)
    assert planned == load_recipe("digits", ["schedule.epochs=2", "trainer.seed=3"], method="ce").recipe


@pytest.mark.parametrize(
    ("override", "words"),
    [
        *(
            (text, r"method of.*method\.name=ffds.*--methods")
            for text in ("method=ffds", "method={name: ffds}")
        ),
        *((text, r"seed of.*trainer\.seed=3.*--seeds") for text in ("trainer.seed=3", "trainer={seed: 3}")),
    ],
)
def test_a_plan_decides_method_and_seed(override, words):
    with pytest.raises(InputError, match=f"(?s)decides the {words}"):
        planned_recipe("digits", [override], method="ce", seed=0)


def test_a_path_is_its_text_and_a_tuple_a_list():
    overrides = override_texts({"data.root": Path("pics 😀 #2"), "data.cut": (3, 4, 3)})
    data = load_recipe("digits", overrides).recipe.data
    assert (data.root, data.cut) == ("pics 😀 #2", (3, 4, 3))


@pytest.mark.parametrize("value", [object(), b"pics", {1, 2}, [Path], 1j])
def test_what_no_recipe_holds_is_refused_with_its_key(value):
    with pytest.raises(InputError, match="cannot have this value") as caught:
        override_texts({"data.root": value})
    assert f"data.root cannot have this value\n  got:     {value!r}\n" in str(caught.value)
