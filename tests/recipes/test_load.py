from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffds.errors import InputError
from ffds.methods.registry import METHODS
from ffds.methods.reweighting import Custom
from ffds.recipes.load import (
    MAX_BYTES,
    Resolved,
    dump_recipe,
    load_recipe,
    override_texts,
    parse_overrides,
    planned_recipe,
    recipe_text,
    shipped_recipes,
)
from ffds.recipes.schema import Data, Recipe
from ffds.recipes.yaml_loader import dump_yaml

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
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(FILE)
    return path


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "fuzz.yaml"


def method_of(path: Path, overrides: Sequence[str] = (), method: str | None = None) -> dict[str, Any]:
    return load_recipe(str(path), overrides, method=method).recipe.method.model_dump()


def test_defaults_then_methods_then_method_then_command_line(recipe_file: Path) -> None:
    found = method_of(recipe_file, ["method.beta=0.9"])
    assert (found["name"], found["gamma_max"]) == ("ffds", 3.0)
    assert (found["num_groups"], found["k"], found["beta"]) == (3, 0.3, 0.9)


def test_another_method_takes_its_own_entry_and_nothing_of_the_files_method(recipe_file: Path) -> None:
    for found in (method_of(recipe_file, ["method=d-ffds"]), method_of(recipe_file, method="d-ffds")):
        assert (found["name"], found["k"], found["start"], found["num_groups"]) == ("d-ffds", 0.2, 0.5, 3)


def test_a_method_without_an_entry_takes_its_defaults(recipe_file: Path) -> None:
    assert load_recipe(str(recipe_file), method="ldam").recipe.method == METHODS["ldam"]()


def test_settings_on_the_command_line_go_on_top_of_the_method_chosen_there(recipe_file: Path) -> None:
    for order in (["method=d-ffds", "method.k=0.7"], ["method.k=0.7", "method=d-ffds"]):
        found = method_of(recipe_file, order)
        assert (found["name"], found["k"], found["beta"]) == ("d-ffds", 0.7, 0.99)


def test_an_override_after_the_argument_wins(recipe_file: Path) -> None:
    assert method_of(recipe_file, ["method=ce"], method="d-ffds")["name"] == "ce"


def test_the_entries_of_methods_can_be_overridden(recipe_file: Path) -> None:
    assert method_of(recipe_file, ["methods.d-ffds.start=0.25"], method="d-ffds")["start"] == 0.25


def test_without_a_method_it_is_cross_entropy(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text("data: {name: digits}\n")
    resolved = load_recipe(str(path))
    assert resolved.recipe == Recipe(name="small", data=Data(name="digits"))
    assert resolved.origin["method.name"] == "default"


def test_the_origin_of_every_leaf(recipe_file: Path) -> None:
    overrides = ["data.root=../x", "method=d-ffds", "method.gamma_max=4"]
    resolved = load_recipe(str(recipe_file), overrides)
    assert list(resolved.origin) == list(resolved.recipe.by_key)
    assert {key: origin for key, origin in resolved.origin.items() if origin != "default"} == {
        "name": str(recipe_file),
        "data.name": f"{recipe_file}:2",
        "data.cut": f"{recipe_file}:3",
        "optimizer.lr": f"{recipe_file}:4",
        "optimizer.momentum": f"{recipe_file}:5",
        "method.k": f"{recipe_file}:11",
        "method.num_groups": f"{recipe_file}:12",
        "method.beta": f"{recipe_file}:13",
        "method.start": f"{recipe_file}:16",
        "data.root": "command line",
        "method.name": "command line",
        "method.gamma_max": "command line",
    }


def test_the_origin_of_the_files_own_method(recipe_file: Path) -> None:
    origin = load_recipe(str(recipe_file)).origin
    found = [origin[f"method.{key}"] for key in ("name", "k", "num_groups", "curve")]
    assert found == [f"{recipe_file}:7", f"{recipe_file}:8", f"{recipe_file}:12", "default"]


@pytest.mark.parametrize("name", shipped_recipes())
def test_origins_point_at_the_line_that_says_so(name: str) -> None:
    resolved = load_recipe(name)
    lines = recipe_text(name).splitlines()
    written = {key: origin for key, origin in resolved.origin.items() if ":" in origin}
    assert len(written) > 20
    for key, origin in written.items():
        file, _, line = origin.partition(":")
        assert file == f"{name}.yaml"
        expected = "method" if key == "method.name" else key.rpartition(".")[2]
        assert lines[int(line) - 1].strip().startswith(f"{expected}:")


def test_overrides_of_every_kind() -> None:
    overrides = ["data.cut=[3,4,3]", "schedule.milestones=[[0.5,0.1]]", "data.root=../x", "optimizer.lr=1e-3"]
    recipe = load_recipe(
        "cifar10-lt-100", [*overrides, "trainer.precision=16", "data.image_size=null"]
    ).recipe
    assert (recipe.data.cut, recipe.data.root, recipe.data.image_size) == ((3, 4, 3), "../x", None)
    assert (recipe.schedule.milestones, recipe.optimizer.lr) == (((0.5, 0.1),), 0.001)
    assert recipe.trainer.precision == "16"


def test_the_hash_knows_values_and_not_their_spelling() -> None:
    one, two = (load_recipe("digits", [f"optimizer.lr={text}"]).recipe for text in ("1", "1.0e0"))
    assert one.config_hash == two.config_hash
    assert one.config_hash != load_recipe("digits", ["optimizer.lr=2"]).recipe.config_hash


def test_the_origin_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        load_recipe("digits").origin["name"] = "elsewhere"  # type: ignore[index]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", shipped_recipes())
def test_a_dumped_recipe_loads_as_an_equal_one(name: str, method: str, tmp_path: Path) -> None:
    recipe = load_recipe(name, ["trainer.precision=16", "optimizer.weight_decay=1e-6"], method=method).recipe
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    again = load_recipe(str(tmp_path / "recipe.yaml")).recipe
    assert again == recipe
    assert again.config_hash == recipe.config_hash


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])), st.floats(1e-300, 1e300))
def test_any_text_and_number_survive_the_dump(scratch: Path, text: str, number: float) -> None:
    recipe = load_recipe("digits").recipe.model_copy(
        update={
            "data": Data(name="folder", root=text, imbalance_factor=max(number, 1.0)),
            "method": Custom(loss=text),
        }
    )
    scratch.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(str(scratch)).recipe == recipe


def test_the_name_is_that_of_the_file_unless_it_says_another(tmp_path: Path) -> None:
    path = tmp_path / "a b.yaml"
    path.write_text("data: {name: digits}\n")
    with pytest.raises(InputError, match=rf"(?s)unknown value of name\n  where:   {re.escape(str(path))}\n"):
        load_recipe(str(path))
    assert load_recipe(str(path), ["name=ab"]).recipe.name == "ab"
    path.write_text("name: c.d-e_f\ndata: {name: digits}\n")
    assert load_recipe(str(path)).recipe.name == "c.d-e_f"


def outcome(path: Path, overrides: Sequence[str] = ()) -> Resolved | InputError:
    """Either a recipe or a clean refusal; any other exception fails the test."""
    try:
        return load_recipe(str(path), overrides)
    except InputError as error:
        found = error
    assert str(found).strip()
    assert "pydantic" not in str(found)
    return found


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_fuzz_bytes(scratch: Path, content: bytes) -> None:
    scratch.write_bytes(content)
    assert isinstance(outcome(scratch), InputError)


@settings(deadline=None)
@given(st.text(st.sampled_from("abk:{}[]&*<!-#'\"|>%@`,? \n\t1.e~=\\u0\ud83d"), max_size=60))
def test_fuzz_yaml_like_text(scratch: Path, text: str) -> None:
    scratch.write_bytes(b"data: {name: digits}\n" + text.encode("utf-8", "surrogatepass"))
    outcome(scratch)


@settings(deadline=None)
@given(st.data())
def test_fuzz_mutated_recipes(scratch: Path, data: st.DataObject) -> None:
    text = recipe_text("cifar100-lt-50").partition("\n\n")[2]
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, min(len(text), start + 20)))
    piece = data.draw(
        st.text(max_size=8) | st.sampled_from(["\n", "  ", ": ", "- ", "[", "{}", "&a ", "*ffds", "null"])
    )
    scratch.write_text(text[:start] + piece + text[stop:], encoding="utf-8", errors="surrogatepass")
    outcome(scratch)


paths = st.sampled_from(
    [
        *load_recipe("digits").recipe.by_key,
        *(
            "data",
            "method",
            "methods",
            "methods.ce",
            "methods.ib.name",
            "methods.x",
            "trainer",
            "data.cut.x",
            "a",
            ".",
        ),
    ]
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([*METHODS])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(paths | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.lists(st.tuples(paths, values), min_size=1, max_size=4), st.lists(st.text(max_size=12), max_size=1))
def test_fuzz_values_of_any_type_at_any_key(
    scratch: Path, given: list[tuple[str, Any]], junk: list[str]
) -> None:
    tree: dict[str, Any] = {}
    for path, value in given:
        section = tree
        *sections, name = path.split(".")
        for part in sections:
            inner = section.setdefault(part, {})
            section = inner if isinstance(inner, dict) else {}
        section[name] = value
    scratch.write_text(dump_yaml(tree), encoding="utf-8")
    outcome(scratch, junk)
    texts = [f"{path}={dump_yaml([value]).strip()[1:-1]}" for path, value in given]
    scratch.write_text(recipe_text("digits"))
    outcome(scratch, [*texts, *junk])


def test_neither_loading_nor_a_broken_recipe_imports_torch(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("data: {name: digits}\nschedule: {epocs: 3}\n")
    program = (
        "import sys\n"
        "from ffds.recipes.load import load_recipe\n"
        "load_recipe('digits')\n"
        "try:\n"
        "    load_recipe('bad.yaml')\n"
        "except ValueError as error:\n"
        "    print(str(error).splitlines()[0])\n"
        "print(sorted({'torch', 'numpy', 'torchvision', 'timm', 'sklearn', 'pyarrow'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["unknown key schedule.epocs", "[]"]


# Which file


def test_an_unknown_name_lists_the_shipped_and_the_nearest() -> None:
    with pytest.raises(InputError) as caught:
        load_recipe("cifar100-lt-10O")
    assert "unknown recipe 'cifar100-lt-10O'" in str(caught.value)
    assert f"allowed: {', '.join(shipped_recipes())}" in str(caught.value)
    assert "did you mean cifar100-lt-10?" in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["missing.yaml", "missing/digits", "digits.yml", "\0.yaml", "x" * 5000 + ".yaml", "directory.yaml"],
)
def test_a_file_that_is_not_there(name: str, tmp_path: Path) -> None:
    (tmp_path / "directory.yaml").mkdir()
    with pytest.raises(InputError, match=r"no such recipe file|cannot be read"):
        load_recipe(str(tmp_path / name))


def test_a_byte_order_mark_and_line_ends_of_windows_are_read(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"\xef\xbb\xbfdata:\r\n  name: digits\r\n")
    resolved = load_recipe(str(tmp_path / "mine.yaml"))
    assert (resolved.recipe.name, resolved.origin["data.name"]) == ("mine", f"{tmp_path}/mine.yaml:2")


def test_not_utf8_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "latin1.yaml"
    path.write_bytes("a: 1\nb: größe\n".encode("latin-1"))
    with pytest.raises(InputError, match=rf"not UTF-8 text\n  where:   {re.escape(str(path))}:2\n"):
        load_recipe(str(path))


def test_size_is_limited(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_bytes(b"data: {name: digits}\n".ljust(MAX_BYTES, b"#"))
    assert load_recipe(str(path)).recipe.name == "large"
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(InputError, match="too large"):
        load_recipe(str(path))


# Overrides


def test_values_follow_the_rules_of_the_file() -> None:
    tree, problems = parse_overrides(
        [
            "data.cut=[3,4,3]",
            "schedule.milestones=[[0.5,0.1]]",
            "data.root=../x",
            "optimizer.lr=1e-3",
            "data.seed =",
        ]
    )
    assert problems == []
    assert tree.plain() == {
        "data": {"cut": [3, 4, 3], "root": "../x", "seed": None},
        "schedule": {"milestones": [[0.5, 0.1]]},
        "optimizer": {"lr": 0.001},
    }


def test_every_node_knows_the_command_line_and_its_key() -> None:
    tree, _ = parse_overrides(["method=ffds", "method.k=0.5", "data={name: digits, cut: [1, 2, 3]}"])
    for key, own in (("method.name", "method"), ("method.k", "method.k"), ("data.cut.1", "data.cut")):
        node = tree.nearest(key.split("."))[0]
        assert (node.key, node.where) == (own, "command line")


def test_of_two_the_later_counts() -> None:
    tree, _ = parse_overrides(["method=ce", "trainer.seed=1", "method.name=ffds", "trainer.seed=2"])
    assert tree.plain() == {"method": {"name": "ffds"}, "trainer": {"seed": 2}}


@pytest.mark.parametrize("text", ["a#b", "'pics #2'", '"#2"', "😀#"])
def test_a_value_may_hold_a_hash_where_it_begins_no_comment(text: str) -> None:
    assert parse_overrides([f"data.root={text}"])[0].plain() == {"data": {"root": text.strip("'\"")}}


def test_a_value_may_hold_an_equals_sign() -> None:
    assert parse_overrides(["data.root=/x/a=b"])[0].plain() == {"data": {"root": "/x/a=b"}}


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("trainer.seed", "trainer.seed is no override"),
        ("=3", "=3 is no override"),
        ("", " is no override"),
        ("--seed", "--seed is no override"),
        ("data.root=@x", "cannot read the value of data.root"),
        ("data.cut=[1,2", "cannot read the value of data.cut"),
        ("data.root=pics #2", "cannot read the value of data.root"),
        ("data.root=#2", "cannot read the value of data.root"),
        ("data.root='😀' # x", "cannot read the value of data.root"),
        ("data.cut=[3,4,3] # x", "cannot read the value of data.cut"),
        ("data.root=\udcff", "cannot read the value of data.root"),
        ("data.root=!!python/name:os.system x", "tag !!python/name:os.system is refused"),
        ("data={a: 1, a: 2}", "key data.a is given twice"),
    ],
)
def test_what_cannot_be_read_is_named_and_the_others_still_count(override: str, what: str) -> None:
    tree, problems = parse_overrides([override, "trainer.seed=3"])
    assert [str(problem).partition("\n")[0] for problem in problems] == [what]
    assert "where:   command line" in str(problems[0])
    assert tree.plain()["trainer"] == {"seed": 3}


# One run of many


def test_a_planned_recipe_is_the_recipe_with_method_and_seed() -> None:
    found = planned_recipe("digits", ["schedule.epochs=2"], method="ce", seed=3)
    assert found == load_recipe("digits", ["schedule.epochs=2", "trainer.seed=3"], method="ce").recipe


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("method=ffds", ["the method", "method.name=ffds", "--methods"]),
        ("method={name: ffds}", ["the method", "method.name=ffds", "--methods"]),
        ("trainer.seed=3", ["the seed", "trainer.seed=3", "--seeds", "--seed "]),
        ("trainer={seed: 3}", ["the seed", "trainer.seed=3", "--seeds", "--seed "]),
    ],
)
def test_a_plan_decides_method_and_seed(override: str, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        planned_recipe("digits", [override], method="ce", seed=0)
    for word in words:
        assert word in str(caught.value)


# Settings from Python

plain = st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.floats(allow_nan=False)
texts = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(["pics #2", "wait...", "1e-3"])
settings_of_python = st.recursive(
    plain | texts, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
).filter(lambda value: "<<" not in repr(value))


@settings(deadline=None)
@given(settings_of_python)
def test_a_value_from_python_is_read_back_equal_with_its_type(value: Any) -> None:
    tree, problems = parse_overrides(override_texts({"data.root": value}))
    assert problems == []
    assert repr(tree.plain()["data"]["root"]) == repr(value)


def test_a_path_is_its_text_and_a_tuple_a_list() -> None:
    overrides = override_texts({"data.root": Path("pics 😀 #2"), "data.cut": (3, 4, 3)})
    data = load_recipe("digits", overrides).recipe.data
    assert (data.root, data.cut) == ("pics 😀 #2", (3, 4, 3))


@pytest.mark.parametrize("value", [object(), b"pics", {1, 2}, [Path], 1j])
def test_what_no_recipe_holds_is_refused_with_its_key(value: object) -> None:
    with pytest.raises(InputError, match="cannot have this value") as caught:
        override_texts({"data.root": value})
    assert f"data.root cannot have this value\n  got:     {value!r}\n" in str(caught.value)
