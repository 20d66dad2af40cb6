"""--jobs, --devices and --scheduler, as a user types them."""

import subprocess
import sys

import pytest

from ffds.cli import main
from ffds.jobs.options import Jobs

SHORT = "schedule.epochs=2"
VERBS = {
    "compare": ["compare", "digits", "--methods", "ce", SHORT],
    "table": ["table", "1a", "--columns", "cifar100-lt-100", "--methods", "ce", SHORT],
    "figure": ["figure", "5a", SHORT],
    "sweep": ["sweep", "digits", SHORT],
}


class Asked(Exception):  # noqa: N818  (what was asked for, not an error)
    """Carries the jobs that a verb wants."""


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_that_trains_several_runs_has_jobs(verb, monkeypatch, tmp_path):
    def ask(*given, jobs, **how):
        raise Asked(jobs)

    for place in ("reports.comparison.train_all", "jobs.engine.train_all", "sweep.search.sweep"):
        monkeypatch.setattr(f"ffds.{place}", ask)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    for options, expected in (
        ([], Jobs(1)),
        (["--jobs", "4", "--devices", "1,0"], Jobs(4, (1, 0))),
        (["--scheduler", "tcp://host:8786"], Jobs(scheduler="tcp://host:8786")),
    ):
        with pytest.raises(Asked) as caught:
            main([*VERBS[verb], *options, "--out", str(tmp_path)])
        assert caught.value.args[0] == expected


@pytest.mark.parametrize("verb", VERBS)
def test_what_cannot_be_is_refused(verb, tmp_path, capsys):
    assert main([*VERBS[verb], "--jobs", "1", "--devices", "0,1", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: there are more devices than processes")
    assert list(tmp_path.iterdir()) == []


def test_devices_are_numbers(capsys):
    with pytest.raises(SystemExit) as end:
        main([*VERBS["compare"], "--devices", "cuda:0"])
    assert end.value.code == 2
    assert "--devices: not whole numbers" in capsys.readouterr().err


def test_without_dask_its_extra_is_named_and_one_run_after_the_other_trains(tmp_path):
    code = (
        "import sys; sys.modules['distributed'] = None\n"
        f"from ffds.cli import main; command = {[*VERBS['compare'], '--out', str(tmp_path)]!r}\n"
        "print(main([*command, '--jobs', '2']), main([*command, '--scheduler', 'tcp://h:1']), main(command))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "2 2 0"
    assert "error: distributed is not installed: pip install 'ffds[jobs]'\n" in done.stderr
