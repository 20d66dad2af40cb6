"""The command line as a user types it: real processes for start-up and exit codes."""

import json
import os
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ffds.cli import main
from ffds.cli.options import print_result
from ffds.errors import FfdsError, InputError, Interrupted, NonFiniteLossError
from ffds.recipes.load import load_recipe
from tests.finished_runs import recipe, write_run

VERBS = [
    *(
        [],
        ["init"],
        ["train"],
        ["compare"],
        ["eval"],
        ["report"],
        ["recipes"],
        ["methods"],
        ["show"],
        ["table"],
        ["figure"],
        ["sweep"],
    ),
    *(["data"], ["data", "info"], ["data", "pack"], ["data", "cache"], ["data", "ictext"]),
    *(["runs"], ["runs", "list"], ["runs", "clean"]),
]
QUICK = ["schedule.epochs=2", "data.imbalance_factor=100"]


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_imports_nothing_heavy(verb: list[str]) -> None:
    heavy = ("torch", "numpy", "pydantic", "matplotlib", "optuna")
    done = python(
        "import sys; from ffds.cli import main\n"
        f"try: main({[*verb, '--help']!r})\n"
        f"except SystemExit as end: print(end.code, [name for name in {heavy!r} if name in sys.modules])"
    )
    assert done.stdout.splitlines()[-1] == "0 []"
    assert "usage: ffds" in done.stdout


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train cifar100-lt-10O", ["cifar100-lt-100"]),
        ("train digits schedule.epocs=3", ["schedule.epocs", "command line", "did you mean epochs"]),
        ("train digits optimizer.lr=-1 data.padding=x", ["optimizer.lr", "data.padding"]),
        ("train digits data.root=pics_#2".replace("_", "\t"), ["data.root", "#2", "in quotes"]),
        ("eval nowhere", ["not a run directory", "nowhere"]),
        ("compare digits --methods ce,nothing", ["nothing"]),
        ("methods d-fds", ["unknown method", "did you mean d-ffds"]),
        ("compare digits --methods ce --seeds a", ["whole numbers"]),
        ("compare digits --methods ce,d-ffds method=ffds", ["the method", "--methods"]),
        ("compare digits --methods ce trainer.seed=1", ["the seed", "--seeds"]),
        ("data pack digits data.imbalance_factor=2", ["before the settings"]),
        ("table 1d", ["1d", "1a"]),
        ("table 1b --methods ce --no-train", ["every row of table 1b"]),
        ("table 1a --runs nowhere.csv", ["nowhere.csv"]),
        ("table runs method=ce", ["lists what there is", "method=ce"]),
        ("table 1a schedule.epochs=100 --no-train", ["one protocol", "--columns"]),
        ("table 1a trainer.seed=1", ["decides the seed", "--seeds"]),
        ("figure 6", ["6", "5b"]),
        ("figure 1 --no-train", ["not there", "cb-fl"]),
        ("figure 2b --recipe digits", ["published tail"]),
        ("figure 5a method=ffds", ["decides the method"]),
        ("figure 5a trainer.seed=1", ["decides the seed", "--seed "]),
    ],
)
def test_bad_input_ends_with_2_and_its_reason(command: str, words: list[str], tmp_path: Path) -> None:
    arguments = [part.replace("\t", " ") for part in command.split(" ")]
    whole = [sys.executable, "-W", "error", "-m", "ffds", *arguments]
    done = subprocess.run(whole, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_train_prints_the_results_and_says_when_it_was_done_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "digits", *QUICK, "method=ce", "--out", str(tmp_path)]
    assert main(arguments) == 0
    first = capsys.readouterr()
    for text in ("accuracy, last epoch", "balanced accuracy", "chosen on the test set", "done: "):
        assert text in first.out
    assert "epoch 2/2 cross-entropy" in first.err
    (file,) = tmp_path.rglob("summary.json")
    written = file.stat().st_mtime_ns
    assert main([*arguments, "--json"]) == 0
    again = capsys.readouterr()
    assert json.loads(again.out) == json.loads(file.read_text()) | {"path": str(file.parent)}
    assert (again.err, file.stat().st_mtime_ns) == ("", written)


def test_train_writes_its_page_and_one_that_cannot_be_drawn_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "digits", *QUICK, "schedule.epochs=1", "method=ce", "--out", str(tmp_path)]
    with monkeypatch.context() as broken:
        broken.setattr("ffds.reports.report.run_page", lambda *_: 1 / 0)
        assert main(arguments) == 0
    said = capsys.readouterr()
    (run,) = (file.parent for file in tmp_path.rglob("summary.json"))
    assert f"warning: the page was not written (division by zero); ffds report {run}" in said.err
    assert "page:" not in said.out
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"page: {run / 'report.html'}\n"
    page = (run / "report.html").read_bytes()
    assert b"image/jpeg" in page
    assert main([*arguments, "trainer.seed=1"]) == 0
    (other,) = (file.parent for file in tmp_path.rglob("seed1-*/report.html"))
    assert f"page: {other / 'report.html'}" in capsys.readouterr().out
    assert main(["report", str(run), "--save", str(tmp_path / "new" / "a.html")]) == 0
    assert (tmp_path / "new" / "a.html").read_bytes() == page


def test_compare_then_eval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path)]
    assert main(["compare", "digits", *out, "--methods", "ce,d-ffds", "--seeds", "0,1", *QUICK]) == 0
    assert "d-ffds" in capsys.readouterr().out
    assert (tmp_path / "digits" / "compare.md").read_text().count("| 2 |") == 2
    assert len((tmp_path / "digits" / "compare.csv").read_text().splitlines()) == 1 + 4
    path = next((tmp_path / "digits" / "d-ffds").glob("seed1-*"))
    table = tmp_path / "new" / "again.parquet"
    assert main(["eval", str(path), "--json", "--predictions", str(table)]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["accuracy"] == json.loads((path / "summary.json").read_text())["accuracy"]["last"]
    assert scores["images"] == pq.read_metadata(table).num_rows
    assert pq.read_table(table).equals(pq.read_table(path / "predictions.parquet"))


@pytest.mark.parametrize("place", ["a-file/x.parquet", "a-directory"])
def test_predictions_that_cannot_be_written_are_refused_before_scoring(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ffds.inference.load.evaluate_run", lambda *_: pytest.fail("scores"))
    (tmp_path / "a-file").touch()
    (tmp_path / "a-directory").mkdir()
    run = write_run(tmp_path / "runs", recipe("schedule.epochs=2"), checkpoint=False)
    assert main(["eval", str(run.path), "--predictions", str(tmp_path / place)]) == 2
    message = capsys.readouterr().err
    assert str(tmp_path / Path(place).parts[0]) in message
    assert "--predictions FILE" in message


@pytest.mark.parametrize("below", ["", "below"])
def test_runs_that_cannot_be_written_are_refused_before_training(
    below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ffds.reports.comparison.train_all", lambda *_, **__: pytest.fail("trains"))
    (tmp_path / "file").touch()
    arguments = ["compare", "digits", "--methods", "ce", "--out", str(tmp_path / "file" / below)]
    assert main(arguments) == 2
    assert f"{tmp_path / 'file'} is no directory" in capsys.readouterr().err
    (tmp_path / "file").unlink()
    # Root may write anywhere.
    monkeypatch.setattr(os, "access", lambda place, mode: mode == os.F_OK and Path(place).exists())
    assert main(arguments) == 2
    assert f"no permission to write in {tmp_path}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_recipes_and_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    assert "cifar100-lt-100" in capsys.readouterr().out
    assert main(["show", "cifar100-lt-100", "method=ldam-drw", "schedule.epochs=30", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["origin"]["schedule.epochs"] == "command line"
    assert shown["origin"]["method.start"] == "default"
    assert shown["origin"]["data.imbalance_factor"].startswith("cifar100-lt-100.yaml:")
    assert shown["schedule"] == {
        "1–3": "phase 1, lr 0.0333 rising to 0.1",
        "4–24": "phase 1, lr 0.1",
        "25–27": "phase 2: ldam-drw, lr 0.001",
        "28–30": "phase 2: ldam-drw, lr 1e-05",
    }
    assert main(["show", "digits"]) == 0
    printed = capsys.readouterr().out
    assert "optimizer.lr" in printed
    assert "what happens" in printed


@pytest.mark.parametrize(
    "settings", [[], ["method=ldam-drw", "data.cut=[3, 4, 3]", "data.root=a #b", "name=x"]]
)
def test_show_yaml_is_a_recipe_with_the_same_hash(
    settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [text.replace("a #b", "'a #b'") for text in settings]
    assert main(["show", "digits", *settings, "--yaml"]) == 0
    (tmp_path / "own.yaml").write_text(capsys.readouterr().out)
    assert load_recipe(str(tmp_path / "own.yaml")).recipe == load_recipe("digits", settings).recipe


@pytest.mark.parametrize(
    ("package", "verb", "extra"), [("pydantic", "show", "train"), ("optuna", "sweep", "sweep")]
)
def test_a_missing_package_is_named_with_its_extra(package: str, verb: str, extra: str) -> None:
    blocked = f"import sys; sys.modules[{package!r}] = None\n"
    done = python(f"{blocked}from ffds.cli import main; sys.exit(main([{verb!r}, 'digits']))")
    assert done.returncode == 2
    assert done.stderr == f"error: {package} is not installed: pip install 'ffds[{extra}]'\n"


@pytest.mark.parametrize(
    ("error", "first", "other"),
    [(Interrupted("stopped"), 75, 0), (NonFiniteLossError("nan"), 3, 0), (InputError("wrong"), 2, 2)],
)
def test_the_first_rank_speaks_for_all(
    error: FfdsError,
    first: int,
    other: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        print("a table")
        raise error

    monkeypatch.setattr("ffds.recipes.shipped_recipes", fail)
    assert main(["recipes"]) == first
    assert capsys.readouterr() == ("a table\n", f"error: {error}\n")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert main(["recipes"]) == other
    assert capsys.readouterr() == ("", "")


def ffds(arguments: list[str], stdout: int, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "ffds", *arguments]
    pipes = {"stdout": stdout, "stderr": subprocess.PIPE}
    return subprocess.run(command, **pipes, env=os.environ | environment, check=False)


@pytest.mark.parametrize("buffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("arguments", [["--help"], ["show", "digits", "--json"], ["recipes"]], ids=" ".join)
def test_a_reader_who_leaves_ends_it_quietly(arguments: list[str], buffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = ffds(arguments, writer, PYTHONUNBUFFERED=buffered)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("arguments", [["--help"], ["compare", "--help"], ["show", "digits"]], ids=" ".join)
def test_a_terminal_that_is_not_utf_8_shows_what_it_can(arguments: list[str]) -> None:
    done = ffds(arguments, subprocess.PIPE, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"?" in done.stdout


@pytest.mark.parametrize("module", ["ffds.cli", "pydantic", "numpy", "torch"])
def test_ctrl_c_during_imports_is_one_line(module: str, tmp_path: Path) -> None:
    code = f"""
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has it ignored
class Finder:
    def find_spec(name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder)
from ffds.__main__ import run
sys.argv = ["ffds", "train", "digits", "--out", {str(tmp_path / "runs")!r}]
sys.exit(run())
"""
    done = python(code)
    assert (done.returncode, done.stdout) == (75, "")
    assert re.fullmatch(r"error: .*; the same command goes on from what .* saved.*\n", done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_memory_that_runs_out_is_one_message(tmp_path: Path) -> None:
    """A limit on the address space, a little above what torch takes; the batch would take half a GiB."""
    arguments = ["train", "digits", *QUICK, "method=ce", "data.augment=[pad-crop]", "data.padding=1024"]
    code = f"""
import resource, sys, ffds.training.train
from pathlib import Path
from ffds.cli import main
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
sys.exit(main({[*arguments, "--out", str(tmp_path)]!r}))
"""
    done = python(code)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert re.search(r"error: memory ran out\n  got: .*memory.*\n  fix: .*trainer.batch_size", done.stderr)


@pytest.mark.parametrize(
    ("redirection", "code", "out", "err"),
    [
        ("2>&-", 2, "", ""),
        (">&- 2>&-", 2, "", ""),
        ("> /dev/full", 2, "", "unknown recipe"),
        ("2> /dev/full", 2, "", ""),
        ("<&- >&-", 2, "", "unknown recipe"),
    ],
)
def test_errors_survive_streams_that_take_nothing(redirection: str, code: int, out: str, err: str) -> None:
    command = f"{sys.executable} -m ffds show nothing {redirection}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, out)
    assert err in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_under_standard_output_is_an_error() -> None:
    with Path("/dev/full").open("wb") as full:
        done = ffds(["show", "digits"], full.fileno())
    assert (done.returncode, done.stderr) == (
        2,
        b"error: the disk is full\n  where:   standard output\n",
    )


def test_a_file_never_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    """What is printed would be written into it."""
    code = "import os; from ffds.cli import main; main(['recipes']); print(os.open(os.devnull, os.O_RDONLY))"
    command = f'{sys.executable} -c "{code}" 2>&- <&-'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert int(done.stdout.splitlines()[-1]) > 2


LONG = ["a" * 256, "/".join(["a" * 200] * 25), "/".join(["a" * 200] * 19)]


@pytest.mark.parametrize("place", LONG, ids=["name", "path", "path of the run"])
@pytest.mark.parametrize(
    "command",
    [
        *("train digits --out", "compare digits --methods ce --out", "sweep digits --out"),
        *("table runs --out", "table 1a --runs", "figure 2a --save", "data pack digits"),
        *("eval", "eval run --predictions"),
    ],
)
def test_a_path_that_is_too_long_is_refused(
    command: str, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([*command.split(), place])
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert "no usable path: File name too long: aaa" in message
    assert len(message) < 3000


HOSTILE = "\x1b[2J\x07\r\n[/red][bold]\u202e\udcff"


def test_names_never_reach_the_terminal_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    options = Namespace(json=False)
    print_result(options, None, {HOSTILE: [[HOSTILE, "b"], ["c", HOSTILE]]}, HOSTILE)
    shown = capsys.readouterr().out
    assert shown.replace("\n", "").isprintable()
    for part in (r"\x1b[2J\x07\r", "[/red][bold]", r"\u202e\udcff"):
        assert shown.count(part) == 4
    options.json = True
    print_result(options, {HOSTILE: HOSTILE}, {})
    assert json.loads(capsys.readouterr().out) == {HOSTILE: HOSTILE}


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_a_hostile_file_name_in_an_error(locale: str, tmp_path: Path) -> None:
    name = b"a\x1b]0;title\x07\xff\xe2\x80\xae.yaml"
    (tmp_path / os.fsdecode(name)).write_text("data: {name: nothing}")
    settings = {"LC_ALL": locale, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [sys.executable.encode(), b"-m", b"ffds", b"show", os.fsencode(tmp_path) + b"/" + name]
    done = subprocess.run(command, capture_output=True, env=os.environ | settings, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert rb"/a\x1b]0;title\x07\udcff" in done.stderr
    assert done.stderr.replace(b"\n", b"").decode("ascii").isprintable()
