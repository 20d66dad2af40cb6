"""What comes from elsewhere is data: the package has no way to run it as code."""

import ast
from pathlib import Path

import pytest

import ffds

SOURCE = Path(ffds.__file__).parent
FORBIDDEN_MODULES = {"dill", "cloudpickle", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "torch.load",
    "yaml.load",
}
FORBIDDEN_CALLS |= {"yaml.unsafe_load", "yaml.full_load", "pickle.load", "pickle.loads", "pickle.Unpickler"}


def unsafe(text):
    """What could run data as code, by line."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            names = [alias.name for alias in node.names] if module is None else [module]
            if module == "pickle":
                found.append((node.lineno, module))
            found += [(node.lineno, name) for name in names if name.partition(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.Call):
            given = {(key.arg, getattr(key.value, "value", None)) for key in node.keywords}
            bad = {("shell", True), ("allow_pickle", True), ("weights_only", False)}
            name = ast.unparse(node.func)
            safe = name == "torch.load" and ("weights_only", True) in given
            forbidden = name in FORBIDDEN_CALLS and not safe
            found += [(node.lineno, name)] if forbidden or given & bad else []
    return found


UNSAFE = [
    "import marshal",
    "from pickle import loads",
    "pickle.loads(b)",
    "eval(x)",
    "torch.load(f)",
    "yaml.load(t, Loader=L)",
]
UNSAFE += ["np.load(f, allow_pickle=True)", "run(c, shell=True)", "load_url(u, weights_only=False)"]


@pytest.mark.parametrize("text", UNSAFE)
def test_the_check_finds(text):
    assert unsafe(text)


def test_nothing_runs_data_as_code():
    files = sorted(SOURCE.rglob("*.py"))
    assert len(files) > 90
    assert {
        str(file): unsafe(file.read_text("utf-8")) for file in files if unsafe(file.read_text("utf-8"))
    } == {}
