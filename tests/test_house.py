"""The house: a file imports only from rooms below its own, never in a circle; rooms and files stay small."""

import ast
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "ffds"

BOTTOM_TO_TOP = [
    "errors environment seeding settings",
    "files progress",
    "plotting losses evaluation",
    "methods run_contents",
    "recipes",
    "data models run_directory",
    "training",
    "inference jobs",
    "sweep reports",
    "paper",
    "cli",
    "__main__",
]
FLOORS = {room: floor for floor, rooms in enumerate(BOTTOM_TO_TOP) for room in rooms.split()}
MODULES = sorted(SOURCE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imports(path: Path) -> set[str]:
    """What a file imports of this package, at any depth of its code, e.g. ``ffds.files.write_text``."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.startswith("ffds.")}


def imported(path: Path) -> set[str]:
    """The rooms of this package that a file imports."""
    return {name.split(".")[1] for name in imports(path)}


def module(path: Path) -> str:
    parts = ("ffds", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


def test_every_room_has_a_floor() -> None:
    assert {room(path) for path in MODULES} - {"__init__"} == set(FLOORS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_come_from_below(path: Path) -> None:
    if room(path) == "__init__":
        return  # the package's own door names what lies on every floor
    own = room(path)
    above = {other for other in imported(path) if other != own and FLOORS[other] >= FLOORS[own]}
    assert not above, f"{path.relative_to(SOURCE)} imports {above}, not below floor {FLOORS[own]}"


def test_no_circle() -> None:
    files = {module(path): path for path in MODULES if path != SOURCE / "__init__.py"}
    graph = {
        name: {one if one in files else one.rpartition(".")[0] for one in imports(path)} - {name}
        for name, path in files.items()
    }
    assert set().union(*graph.values()) <= set(graph)
    TopologicalSorter(graph).prepare()  # a circle is a CycleError that names it


def test_sizes() -> None:
    lines = {path: path.read_text(encoding="utf-8").count("\n") for path in MODULES}
    assert {path.name: count for path, count in lines.items() if count > 350} == {}
    assert {room.name: n for room, n in Counter(path.parent for path in MODULES).items() if n > 16} == {}


def test_the_rule_sees_a_violation(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("def f():\n    from ffds.training.loop import TrainingLoop\n    from ffds import cli\n")
    assert imported(file) == {"training", "cli"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_opens_with_a_sentence_and_names_what_it_gives(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    first = (ast.get_docstring(tree) or "").splitlines()[0]
    assert first.endswith((".", ":", "?")), f"{path}: {first!r}"
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assigned = [ast.unparse(node.targets[0]) for node in tree.body if isinstance(node, ast.Assign)]
    assert "__all__" in assigned or all(name.startswith("_") for name in defined), f"{path} has no __all__"


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import ffds", ["torch", "numpy", "pydantic"]),
        ("import ffds.cli", ["torch", "numpy", "pydantic"]),
        (
            "import contextlib; from ffds.recipes.load import load_recipe; load_recipe('digits')\n"
            "with contextlib.suppress(ValueError): load_recipe('digits', ['schedule.epocs=3'])",
            ["torch", "numpy"],
        ),
        ("from ffds.run_directory import open_run", ["torch"]),
        (
            "import ffds.reports.run_records, ffds.reports.report\n"
            "import ffds.paper.tables, ffds.paper.panels, ffds.paper.figure_data",
            ["torch"],
        ),
    ],
)
def test_light_things_stay_light(statement: str, absent: list[str]) -> None:
    code = f"{statement}\nimport sys\nprint([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
