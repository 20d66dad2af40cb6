"""What is read from YAML: plain values with key and place, and nothing that a hostile file could do."""

import math
import sys

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ffds.recipes.yaml_loader import COMMAND_LINE, DEFAULT, MAX_DEPTH, Node, dump_yaml, merge, parse_yaml
from ffds.settings import by_dotted_key


def root_of(text, source="my.yaml"):
    root, problems = parse_yaml(text, source)
    assert root is not None
    assert problems == []
    return root


def value_of(text):
    return root_of(text, source="").plain()


def problem_of(text):
    (problem,) = parse_yaml(text, "my.yaml")[1]
    return str(problem)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(("1e-3", 0.001), ("1E3", 1000.0), ("2e-4", 2e-4), ("5.", 5.0), (".5", 0.5), ("-0.5e+2", -50.0)),
        *(("12", 12), ("+12", 12), ("-7", -7), ("0", 0)),
        *(("true", True), ("false", False), ("null", None), ("~", None), ("", None)),
        *((".inf", math.inf), ("-.inf", -math.inf), (".nan", math.nan)),
    ],
)
def test_unquoted_scalars_that_are_not_text(text, expected):
    assert repr(value_of(text)) == repr(expected)


@pytest.mark.parametrize(
    "text",
    [
        *("yes", "no", "on", "off", "True", "FALSE", "y", "n", "Null"),
        *("010", "0x1f", "0o17", "0b1", "1_000", "1:30", "190:20:30"),
        *("2024-01-01", "2024-01-01 10:00:00", "inf", "nan", "1e", "e5", "1.2.3", "--1", "=", "1e5x"),
    ],
)
def test_everything_else_is_text(text):
    assert value_of(text) == text == value_of(f"'{text}'") == value_of(f'"{text}"')


@pytest.mark.parametrize(
    ("path", "key", "where", "beyond"),
    [
        ("a.b", "a.b", "my.yaml:2:3", 0),
        ("a.c", "a.c", "my.yaml:3:3", 0),
        (("a", "c", 1, 1), "a.c[1][1]", "my.yaml:5:11", 0),
        (("a", "c", 2), "a.c", "my.yaml:3:3", 1),
        ("d", "d", "my.yaml:6:1", 0),
        ("d.x.y", "d", "my.yaml:6:1", 2),
        ("x", "", "my.yaml", 1),
    ],
)
def test_every_value_knows_its_key_and_place(path, key, where, beyond):
    root = root_of("a:\n  b: 1\n  c:\n    - 2\n    - [3, 4]\nd: x\n")
    node, rest = root.nearest(path.split(".") if isinstance(path, str) else path)
    assert (node.key, node.where, len(rest)) == (key, where, beyond)


def test_a_key_given_twice_is_an_error_with_both_places_and_the_rest_is_still_read():
    root, problems = parse_yaml("a: {x: 1, y: 2, x: 3}\nb: 1\na: 4\n", "my.yaml")
    text = "\n".join(map(str, problems))
    assert "key a.x is given twice\n  where:   my.yaml:1:5 and my.yaml:1:17" in text
    assert "key a is given twice\n  where:   my.yaml:1:1 and my.yaml:3:1" in text
    assert root is not None
    assert root.plain() == {"a": {"x": 1, "y": 2}, "b": 1}


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("a:\n  b: !!python/object/apply:os.system ['touch canary']", "my.yaml:2:6"),
        ("a: !!str 5", "my.yaml:1:4"),
        ("a: ! x", "my.yaml:1:4"),
        ("!!python/tuple a: 1", "my.yaml:1:1"),
        ("? !x a\n: 1", "my.yaml:1:3"),
    ],
)
def test_tags_are_refused_with_line_and_column(text, where):
    message = problem_of(text)
    assert message.startswith("tag !")
    assert f"is refused\n  where:   {where}\n" in message


NESTED = "more than 10000 values or 16 levels, aliases counted in full\n  where:   my.yaml:"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("# only a comment\n", "the file is empty"),
        ("just text", "not a mapping of keys to values"),
        ("a: 1\n---\nb: 2", "not valid YAML: expected a single document in the stream, but found another"),
        (
            "a: 1\n b: 2",
            "not valid YAML: mapping values are not allowed in this context\n  where:   my.yaml:2:",
        ),
        ("a:\n\t- 1", "not valid YAML: while scanning for the next token, found character "),
        ("a: *nothing", "not valid YAML: found undefined alias\n  where:   my.yaml:1:4"),
        ("a: &a [*a]", NESTED),
        ("a: &a {<<: *a}", NESTED),
        ("[a, b]: 1", "a key must be a single word\n  where:   my.yaml:1:1"),
        ("<<: {[a]: 1}", "a key must be a single word\n  where:   my.yaml:1:6"),
        ("a: \x00", "not valid YAML: "),
        ("<<: 5", "<< takes mappings only\n  where:   my.yaml:1:5"),
        ("<<: {a: 1}\n<<: {b: 1}", "key << is given twice"),
    ],
)
def test_unreadable_documents_say_what_and_where(text, what):
    assert problem_of(text).startswith(what)


def test_anchors_and_merges():
    text = "base: &b {x: 1, y: 2}\nmore: &m {y: 3, z: 4}\none: {<<: *b, y: 9}\ntwo:\n  <<: [*b, *m]\n  w: 0\n"
    root = root_of(text)
    assert root.plain()["one"] == {"x": 1, "y": 9}
    assert root.plain()["two"] == {"x": 1, "y": 2, "z": 4, "w": 0}
    assert root.nearest(("two", "x"))[0].place == "my.yaml:1"
    assert root.nearest(("one", "y"))[0].place == "my.yaml:3"


@pytest.mark.parametrize("item", ["[{}]", "{{<<: [{}]}}"])
def test_an_alias_bomb_is_refused_before_it_expands(item):
    lines = ["a0: &a0 {k: x}"]
    lines += [f"a{i}: &a{i} {item.format(', '.join([f'*a{i - 1}'] * 10))}" for i in range(1, 30)]
    assert problem_of("\n".join(lines)).startswith(NESTED)


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_deep_nesting_is_refused_at_any_depth(opening):
    for depth in (MAX_DEPTH + 2, sys.getrecursionlimit() * 50):
        assert parse_yaml(f"a:\n  {opening * depth}", "my.yaml")[0] is None
    within = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert value_of(within) == yaml.safe_load(within)


def test_control_characters_of_a_hostile_file_are_not_sent_to_the_terminal():
    message = problem_of('"\\e[2J": 1\n"\\e[2J": 2')
    assert message.isascii()
    assert "\x1b" not in message


names = st.sampled_from("abc")
trees = st.recursive(st.integers(0, 9), lambda inner: st.dictionaries(names, inner, max_size=3), max_leaves=8)
mappings = st.dictionaries(names, trees, max_size=3)


def node(value, place=DEFAULT):
    if isinstance(value, dict):
        value = {name: node(inner, place) for name, inner in value.items()}
    return Node(value, "", place)


def laid_over(base, over):
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    both = {key: laid_over(base[key], over[key]) for key in base if key in over}
    return base | over | both


@settings(deadline=None)
@given(mappings, mappings)
def test_a_merge_is_that_of_plain_dicts_and_every_leaf_keeps_its_place(base, over):
    merged = merge(node(base), node(over, COMMAND_LINE))
    assert merged.plain() == laid_over(base, over)
    for key in by_dotted_key(merged.plain()):
        leaf, _ = merged.nearest(key.split("."))
        assert leaf.place == (COMMAND_LINE if key in by_dotted_key(over) else DEFAULT)


TRICKY = ["1e-3", "010", "yes", "null", "~", "", " ", "<<", "=", "1_0", "# x", "- a", "a: b", "\x85", "1."]
numbers = st.integers(-(10**17), 10**17) | st.floats(allow_nan=False)
texts = st.text(st.characters(exclude_categories=["Cs"]))
keys = texts.filter(lambda key: key != "<<")
values = st.recursive(
    st.none() | st.booleans() | numbers | texts | st.sampled_from(TRICKY),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
)


@settings(deadline=None)
@given(st.dictionaries(keys, values, max_size=4))
def test_what_is_dumped_is_read_back_equal_with_its_types_and_order(value):
    assert repr(root_of(dump_yaml(value)).plain()) == repr(value)
