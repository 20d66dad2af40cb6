from __future__ import annotations

import math
import random
import sys
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ffds.recipes.yaml_loader import MAX_DEPTH, Document, Node, dump_yaml, parse_value, parse_yaml


def root_of(document: Document) -> Node:
    assert document.root is not None
    return document.root


def value_of(text: str) -> Any:
    return root_of(parse_value(text, "key")).plain()


def problem_of(text: str) -> str:
    (problem,) = parse_yaml(text, "my.yaml").problems
    return str(problem)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("2e-4", 2e-4),
        ("5.", 5.0),
        (".5", 0.5),
        ("-0.5e+2", -50.0),
        ("12", 12),
        ("+12", 12),
        ("-7", -7),
        ("0", 0),
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        (".inf", math.inf),
        ("-.inf", -math.inf),
    ],
)
def test_plain_scalars_that_are_not_text(text: str, expected: object) -> None:
    found = value_of(text)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    "text",
    [
        *("yes", "no", "on", "off", "True", "FALSE", "y", "n", "Null"),
        *("010", "0x1f", "0o17", "0b1", "1_000", "1:30", "190:20:30"),
        *("2024-01-01", "2024-01-01 10:00:00", "inf", "nan", "1e", "e5", "1.2.3", "--1", "=", "1e5x"),
    ],
)
def test_everything_else_is_text(text: str) -> None:
    assert value_of(text) == text


@pytest.mark.parametrize("text", ["'1'", '"true"', "'null'", "'1e-3'"])
def test_quotes_make_text(text: str) -> None:
    assert value_of(text) == text[1:-1]


def test_nan_is_read_so_that_it_can_be_refused_as_a_number() -> None:
    assert math.isnan(value_of(".nan"))


def test_every_value_knows_its_key_and_the_place_of_its_key() -> None:
    root = root_of(parse_yaml("a:\n  b: 1\n  c:\n    - 2\n    - [3, 4]\nd: x\n", "my.yaml"))
    places = {path: (node.key, str(node.place)) for path, node in root.leaves()}
    assert places == {"a.b": ("a.b", "my.yaml:2"), "a.c": ("a.c", "my.yaml:3"), "d": ("d", "my.yaml:6")}
    four = root.nearest_to(("a", "c", 1, 1))
    assert (four.key, four.place.exact, four.value) == ("a.c[1][1]", "my.yaml:5:11", 4)


def test_a_key_given_twice_is_an_error_with_both_places_and_the_rest_is_still_read() -> None:
    document = parse_yaml("a: {x: 1, y: 2, x: 3}\nb: 1\na: 4\n", "my.yaml")
    text = "\n".join(map(str, document.problems))
    assert "key a.x is given twice\n  where:   my.yaml:1:5 and my.yaml:1:17" in text
    assert "key a is given twice\n  where:   my.yaml:1:1 and my.yaml:3:1" in text
    assert root_of(document).plain() == {"a": {"x": 1, "y": 2}, "b": 1}


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("a: !!python/object/apply:os.system ['touch canary']", "my.yaml:1:4"),
        ("a:\n  b: !!python/name:os.system x", "my.yaml:2:6"),
        ("a: !!str 5", "my.yaml:1:4"),
        ("a: !mine {x: 1}", "my.yaml:1:4"),
        ("a: ! x", "my.yaml:1:4"),
        ("!!python/tuple a: 1", "my.yaml:1:1"),
        ("? !x a\n: 1", "my.yaml:1:3"),
    ],
)
def test_tags_are_refused_with_line_and_column(text: str, where: str) -> None:
    message = problem_of(text)
    assert message.startswith("tag !")
    assert "is refused" in message
    assert f"where:   {where}\n" in message


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "the file is empty"),
        ("# only a comment\n", "the file is empty"),
        ("---\n...\n", "the file is empty"),
        ("just text", "not a mapping of keys to values"),
        ("- a\n- b", "not a mapping of keys to values"),
        ("a: 1\n---\nb: 2", "more than one YAML document\n  where:   my.yaml:2:1"),
        ("a: [1, 2", "not valid YAML: "),
        ("a: 1\n b: 2", "not valid YAML: mapping values are not allowed"),
        ("a:\n\t- 1", "not valid YAML: found character "),
        ("a: *nothing", "alias *nothing has no anchor before it\n  where:   my.yaml:1:4"),
        ("a: &a [*a]", "alias *a has no anchor before it\n  where:   my.yaml:1:8"),
        ("[a, b]: 1", "a key must be a single word\n  where:   my.yaml:1:1"),
        ("a: \x00", "not valid YAML: "),
        ("<<: 5", "<< takes mappings only\n  where:   my.yaml:1:1"),
    ],
)
def test_unreadable_documents_say_what_and_where(text: str, what: str) -> None:
    assert problem_of(text).startswith(what)


def test_a_syntax_error_has_its_line() -> None:
    assert "where:   my.yaml:2:" in problem_of("a: 1\n b: 2")


def test_anchors_and_merges() -> None:
    text = "base: &b {x: 1, y: 2}\nmore: &m {y: 3, z: 4}\none: {<<: *b, y: 9}\ntwo:\n  <<: [*b, *m]\n  w: 0\n"
    root = root_of(parse_yaml(text, "my.yaml"))
    assert root.plain()["one"] == {"x": 1, "y": 9}
    assert root.plain()["two"] == {"x": 1, "y": 2, "z": 4, "w": 0}
    assert str(root.nearest_to(("two", "x")).place) == "my.yaml:1"
    assert str(root.nearest_to(("one", "y")).place) == "my.yaml:3"


def test_an_alias_bomb_is_refused_before_it_expands() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    document = parse_yaml("\n".join(lines), "my.yaml")
    unread = document.root is None
    assert unread  # on its own: a failure must not print the bomb
    assert str(document.problems[0]).startswith("more than 10000 values, aliases counted in full")


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_deep_nesting_is_refused_at_any_depth(opening: str) -> None:
    for depth in (MAX_DEPTH + 2, sys.getrecursionlimit() * 50):
        document = parse_yaml(f"a:\n  {opening * depth}", "my.yaml")
        assert document.root is None


def test_nesting_within_the_limit_is_read() -> None:
    text = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert value_of(text) == yaml.safe_load(text)


def test_control_characters_of_a_hostile_file_are_not_sent_to_the_terminal() -> None:
    document = parse_yaml('"\\e[2J": 1\n"\\e[2J": 2', "my.yaml")
    assert str(document.problems[0]).isascii()
    assert "\x1b" not in str(document.problems[0])


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**17), 10**17)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.sampled_from(
        ["1e-3", "010", "yes", "null", "~", "", " ", "<<", "=", "1_0", "# x", "- a", "a: b", "\x85", "1."]
    )
)
keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda key: key != "<<")
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4)
)


@settings(deadline=None)
@given(st.dictionaries(keys, values, max_size=4))
def test_what_is_dumped_is_read_back_equal_with_its_types(value: dict[str, Any]) -> None:
    assert repr(root_of(parse_yaml(dump_yaml(value), "my.yaml")).plain()) == repr(value)


def test_the_order_of_keys_is_kept() -> None:
    names = [f"k{i}" for i in range(50)]
    random.Random(0).shuffle(names)
    assert list(root_of(parse_yaml(dump_yaml(dict.fromkeys(names, 1)), "my.yaml")).entries) == names
