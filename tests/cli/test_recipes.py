"""The list of methods, and what is said of one."""

import json
import subprocess
import sys

import pytest

from ffds.cli import main
from ffds.methods.facts import facts
from ffds.methods.registry import METHODS


def test_methods_are_listed_without_torch():
    code = "import sys; from ffds.cli import main; main(['methods']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
    assert [name for name in METHODS if f"\n {name} " not in done.stdout] == []


def test_methods_as_json_say_of_each_what_the_registry_says(capsys):
    assert main(["methods", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["methods"] == {name: facts(name) for name in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_all_is_said_of_one_method(method, capsys):
    assert main(["methods", method, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {key: said[key] for key in facts(method)} == facts(method)
    assert list(said["keys"]) == [f"method.{key}" for key in METHODS[method].model_fields if key != "name"]
    assert len({text.partition(",")[0] for text in said["schedule"].values()}) == said["phases"]
