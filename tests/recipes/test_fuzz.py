"""Whatever is thrown at recipes is either read or refused cleanly."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffds.errors import InputError
from ffds.methods.registry import METHODS
from ffds.recipes.load import load_recipe, override_texts, parse_overrides, recipe_text
from ffds.recipes.yaml_loader import dump_yaml


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "fuzz.yaml"


def nested(scalars, keys):
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
        max_leaves=6,
    )


plain = st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.floats(allow_nan=False)
texts = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(["pics #2", "wait...", "1e-3"])


@settings(deadline=None)
@given(nested(plain | texts, texts.filter(lambda key: key != "<<")))
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
    pieces = st.sampled_from(["\n", "  ", ": ", "- ", "[", "{}", "&a ", "*ffds", "null"])
    piece = data.draw(st.text(max_size=8) | pieces)
    scratch.write_text(text[:start] + piece + text[stop:], encoding="utf-8", errors="surrogatepass")
    outcome(scratch)


SECTIONS = ["data", "data.cut.x", "method", "methods", "methods.ce", "methods.ib.name", "methods.x"]
paths = st.sampled_from([*load_recipe("digits").recipe.by_key, *SECTIONS, "trainer", "a", "."])
scalars = plain | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([*METHODS])
settings_of_paths = st.tuples(paths, nested(scalars, paths | st.text(max_size=3)))


@settings(deadline=None)
@given(st.lists(settings_of_paths, min_size=1, max_size=4), st.lists(st.text(max_size=12), max_size=1))
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
