"""The journal of a study, damaged in every way, and on a full disk; runs train by formula."""

import json
import random

import pytest

from ffds.errors import InputError
from tests.full_disk import room_for
from tests.sweep import made

TRIALS = 3


def work(out):
    with pytest.MonkeyPatch.context() as patch:
        made.use(patch)
        return made.outcome(made.swept(out, trials=TRIALS))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    return out, work(out)


@pytest.fixture
def journal(whole):
    """The journal of a finished study, which is put back in the end."""
    (file,) = whole[0].rglob("*.log")
    content = file.read_bytes()
    yield file
    file.write_bytes(content)


def flipped(content, bit):
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def test_a_flipped_bit_is_never_believed(whole, journal):
    out, outcome = whole
    content, draw, refused = journal.read_bytes(), random.Random(0), 0
    for _ in range(25):
        journal.write_bytes(flipped(content, draw.randrange(8 * len(content))))
        try:
            told = work(out) == outcome
        except InputError as error:
            refused, told = refused + 1, str(journal) in str(error)
        assert told
    assert refused > 20


@pytest.mark.parametrize(
    "line", [b"[" * 100_000, b"\xff", b"5", b"null", b"[]", b'{"op_code": 4, "study_id": 7}', b"{}"]
)
def test_a_line_that_optuna_did_not_write(line, whole, journal):
    journal.write_bytes(journal.read_bytes() + line + b"\n")
    with pytest.raises(InputError, match="the journal of the study is damaged") as caught:
        work(whole[0])
    assert str(journal) in str(caught.value)


def test_cut_anywhere_the_same_command_goes_on(whole, journal):
    out, outcome = whole
    content = journal.read_bytes()
    for end in range(0, len(content), len(content) // 12):
        journal.write_bytes(content[:end])
        assert work(out) == outcome
    journal.unlink()
    assert work(out) == outcome, "from the runs that are there"


def test_lines_of_an_earlier_version_have_no_sum(whole, journal):
    logs = [json.loads(line) for line in journal.read_bytes().splitlines()]
    assert all(log.pop("sha256") for log in logs)
    journal.write_text("".join(json.dumps(log) + "\n" for log in logs))
    assert work(whole[0]) == whole[1]


@pytest.mark.parametrize("part", [0, 0.01, 0.2, 0.4, 0.7, 0.99])
def test_a_full_disk_is_named_and_the_same_command_goes_on(part, whole, tmp_path):
    out, outcome = whole
    (file,) = out.rglob("*.log")
    room = int(part * file.stat().st_size)
    with room_for(room), pytest.raises(InputError, match=r"cannot save .* below .*: File too large"):
        work(tmp_path)
    left = [path for path in tmp_path.rglob("*") if path.suffix == ".log"]
    assert all(path.read_bytes().endswith(b"\n") for path in left if path.stat().st_size)
    assert work(tmp_path) == outcome
