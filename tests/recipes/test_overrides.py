from __future__ import annotations

import pytest

from ffds.recipes.load import parse_overrides


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
    leaves = {path: (node.key, str(node.place)) for path, node in tree.leaves()}
    assert leaves == {
        "method.name": ("method", "command line"),
        "method.k": ("method.k", "command line"),
        "data.name": ("data.name", "command line"),
        "data.cut": ("data.cut", "command line"),
    }


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
