"""A full disk under every verb that writes tables or figures of finished runs."""

import pytest

from ffds.cli import main
from tests.finished_runs import recipe, write_run
from tests.full_disk import room_for

SHORT = "schedule.epochs=2"
TABLE = ["table", "1a", "--columns", "digits", "--methods", "ce", "--no-train", SHORT]
COMMANDS = {
    "compare.md, compare.csv": ["compare", "digits", "--methods", "ce", "--seeds", "{seeds}", SHORT],
    "table-1a.md, table-1a.tex, table-1a.csv": [*TABLE, "--seeds", "{seeds}", "--save", "{out}/digits"],
    "runs.csv": ["table", "runs", "--seeds", "{seeds}", "--save", "{out}/digits"],
    "figure-5a.svg, figure-5a.pdf, figure-5a.png, figure-5a.csv": [
        *("figure", "5a", "--recipe", "digits", "--no-train", "--seed", "{last}", SHORT),
        *("--save", "{out}/digits"),
    ],
}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        for method in ("ce", "d-ffds"):
            one = recipe(SHORT, f"trainer.seed={seed}", name="digits", method=method)
            write_run(place, one, classes=10, last=40.0 + seed)
    return place


@pytest.mark.parametrize("names", COMMANDS)
def test_a_full_disk_is_named_and_the_same_command_goes_on(names, out, capsys):
    def done(*seeds):
        given = {"out": out, "seeds": ",".join(map(str, seeds)), "last": seeds[-1]}
        return main([*(word.format(**given) for word in COMMANDS[names]), "--out", str(out)])

    def files():
        return {path.name: path.read_bytes() for path in (out / "digits").iterdir() if path.is_file()}

    assert done(0) == 0
    before, longest = files(), max(len(files()[name]) for name in names.split(", "))
    capsys.readouterr()
    with room_for(longest // 2):
        assert done(0, 1) == 2
    *_, message = capsys.readouterr().err.splitlines()
    assert message == f"error: cannot save {names} below {out / 'digits'}: File too large"
    assert files() == before
    assert done(0, 1) == 0
    assert files() != before
