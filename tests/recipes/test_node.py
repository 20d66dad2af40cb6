from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ffds.recipes.yaml_loader import COMMAND_LINE, DEFAULT, Node, Place, merge

names = st.sampled_from("abc")
plain_values = st.recursive(
    st.integers(0, 9), lambda inner: st.dictionaries(names, inner, max_size=3), max_leaves=8
)
mappings = st.dictionaries(names, plain_values, max_size=3)


def node(value: Any, place: Place = DEFAULT, key: str = "") -> Node:
    if isinstance(value, dict):
        value = {name: node(inner, place, f"{key}.{name}") for name, inner in value.items()}
    return Node(value, key, place)


def laid_over(base: Any, over: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    return {
        k: laid_over(base[k], over[k]) if k in base and k in over else {**base, **over}[k]
        for k in {**base, **over}
    }


@settings(deadline=None)
@given(mappings, mappings)
def test_merge_against_a_twin_on_plain_dicts(base: dict[str, Any], over: dict[str, Any]) -> None:
    assert merge(node(base), node(over)).plain() == laid_over(base, over)


@settings(deadline=None)
@given(mappings)
def test_merging_nothing_or_itself_changes_nothing(value: dict[str, Any]) -> None:
    assert merge(node(value), node({})).plain() == value
    assert merge(node({}), node(value)).plain() == value
    assert merge(node(value), node(value)).plain() == value


@settings(deadline=None)
@given(mappings, mappings)
def test_every_leaf_of_a_merge_keeps_the_place_it_came_from(
    base: dict[str, Any], over: dict[str, Any]
) -> None:
    upper = node(over, COMMAND_LINE)
    for path, leaf in merge(node(base), upper).leaves():
        from_above = any(path == above for above, _ in upper.leaves())
        assert leaf.place == (COMMAND_LINE if from_above else DEFAULT)
