"""Whatever is thrown at recipes is either read or refused cleanly.

``pytest --hypothesis-profile=long tests/recipes/test_fuzz.py`` tries 5,000 recipes in each test.
"""

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ffds.errors import InputError
from ffds.methods.registry import METHODS
from ffds.recipes.load import load_recipe, override_texts, parse_overrides, recipe_text
from ffds.recipes.yaml_loader import dump_yaml
from ffds.run_directory import Run


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
    """Either a recipe, or a clean refusal: short and printable; any other exception fails the test."""
    before = sorted([*Path().iterdir(), *path.parent.iterdir()])
    try:
        recipe = load_recipe(str(path), overrides).recipe
    except InputError as error:
        message = str(error)
        assert message.strip()
        assert "pydantic" not in message
        assert len(message) < 100_000
        assert message.replace("\n", "").isprintable()
        return error
    else:
        assert Run.of(recipe, "out").path.parts[:-1] == ("out", recipe.name, recipe.method.name)
        return recipe
    finally:
        assert before == sorted([*Path().iterdir(), *path.parent.iterdir()])


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


KEYS = [*load_recipe("digits").recipe.by_key, *SECTIONS, "methods", "__class__", "../../name", "<<"]
KEYS += ["a\x00b", "k" * 5000, "\x1b[2J", "\u202e", "e\u0301"]
VALUES = ["../../etc/passwd", "/dev/zero", "..", "~nobody/x", "$HOME", "\u202egnp.exe", "\x1b[31mred", "\x07"]
VALUES += ["9" * 5000, "-1" + "0" * 300, "1e999", ".nan", "-.inf", "0x10", "1_000", "yes", "v" * 50_000]
VALUES += [
    "!!python/object/apply:os.system [touch canary]",
    "!!python/name:os.system",
    "!!binary A",
    "!<t> 1",
]
VALUES += ["&a [*a]", "*a", "*nothing", "&a {<<: *a}", "? [1]", "|\n  text", "2001-01-01"]
VALUES += [r'"\ud800"', r'"\e[2J"', r'"a\0b"']
scalar_texts = st.sampled_from(VALUES) | st.text(max_size=10)
documents = st.recursive(
    scalar_texts,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.lists(st.tuples(st.sampled_from(KEYS), inner), max_size=3).map(
            lambda pairs: "{" + ", ".join(f"{json.dumps(key)}: {value}" for key, value in pairs) + "}"
        )
    ),
    max_leaves=5,
)
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1"]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(KEYS), documents), min_size=1, max_size=6),
    st.sampled_from(ENCODINGS),
    st.sampled_from(["\n", "\r\n", "\r", "\n\t", "\n\n---\n", "\u2028"]),
)
def test_fuzz_hostile_documents_and_the_same_on_the_command_line(scratch, pairs, encoding, newline):
    lines = ["data: {name: digits}", *(f"{json.dumps(key)}: {value}" for key, value in pairs)]
    text = newline.join(lines)
    scratch.write_bytes(text.encode(encoding, "surrogatepass" if "utf" in encoding else "replace"))
    outcome(scratch)
    scratch.write_text(recipe_text("digits"))
    outcome(scratch, [f"{key}={value}" for key, value in pairs])


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.booleans())
@example(40, 40, True)
@example(40, 40, False)
def test_fuzz_aliases_of_aliases(scratch, depth, width, keys):
    lines = ["data: {name: digits}", "a0: &a0 x"]
    for level in range(1, depth):
        many = ", ".join(f"k{n}: *a{level - 1}" if keys else f"*a{level - 1}" for n in range(width))
        lines.append(f"a{level}: &a{level} " + (f"{{{many}}}" if keys else f"[{many}]"))
    scratch.write_text("\n".join(lines))
    assert isinstance(outcome(scratch), InputError)


@settings(deadline=None)
@given(st.integers(0, 2000), st.sampled_from(["[", "{a: ", "- ", "? ", "a.", "&x [", "!!seq ["]))
def test_fuzz_depth(scratch, depth, opening):
    scratch.write_text(f"data: {opening * depth}")
    outcome(scratch)
    outcome(scratch, [f"data={opening * depth}", f"{opening * depth}=1"])
