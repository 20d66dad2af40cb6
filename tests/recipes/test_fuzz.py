"""Whatever is thrown at recipes is either read or refused cleanly; what is dumped is read back equal."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffds.errors import InputError
from ffds.methods.registry import METHODS
from ffds.methods.reweighting import Custom
from ffds.recipes.load import dump_recipe, load_recipe, override_texts, parse_overrides, recipe_text
from ffds.recipes.schema import Data, Recipe
from ffds.recipes.yaml_loader import dump_yaml


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "fuzz.yaml"


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])), st.floats(1e-300, 1e300))
def test_any_text_and_number_survive_the_dump(scratch, text, number):
    data = Data(name="folder", root=text, imbalance_factor=max(number, 1.0))
    recipe = Recipe(name="x", data=data, method=Custom(loss=text))
    scratch.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(str(scratch)).recipe == recipe


plain = st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.floats(allow_nan=False)
texts = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(["pics #2", "wait...", "1e-3"])
settings_of_python = st.recursive(
    plain | texts, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
).filter(lambda value: "<<" not in repr(value))


@settings(deadline=None)
@given(settings_of_python)
def test_a_value_from_python_is_read_back_equal_with_its_type(value):
    tree, problems = parse_overrides(override_texts({"data.root": value}))
    assert problems == []
    assert repr(tree.plain()["data"]["root"]) == repr(value)


def outcome(path, overrides=()):
    """Either a recipe or a clean refusal; any other exception fails the test."""
    try:
        return load_recipe(str(path), overrides)
    except InputError as error:
        assert str(error).strip()  # noqa: PT017
        assert "pydantic" not in str(error)  # noqa: PT017
        return error


@settings(deadline=None)
@given(
    st.binary(max_size=300),
    st.text(st.sampled_from("abk:{}[]&*<!-#'\"|>%@`,? \n\t1.e~=\\u0\ud83d"), max_size=60),
)
def test_fuzz_bytes_and_yaml_like_text(scratch, content, text):
    scratch.write_bytes(content)
    assert isinstance(outcome(scratch), InputError)
    scratch.write_bytes(b"data: {name: digits}\n" + text.encode("utf-8", "surrogatepass"))
    outcome(scratch)


@settings(deadline=None)
@given(st.data())
def test_fuzz_mutated_recipes(scratch, data):
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
        *("data", "method", "methods", "methods.ce", "methods.ib.name", "methods.x"),
        *("trainer", "data.cut.x", "a", "."),
    ]
)
names = paths | st.text(max_size=3)
scalars = plain | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([*METHODS])
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.lists(st.tuples(paths, values), min_size=1, max_size=4), st.lists(st.text(max_size=12), max_size=1))
def test_fuzz_values_of_any_type_at_any_key(scratch, given, junk):
    tree = {}
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
