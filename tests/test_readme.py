"""What the README shows works as it stands there."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from ffds.cli.main import parsed
from ffds.paper.table_plan import planned_table
from ffds.recipes import load_recipe
from ffds.recipes.first_recipe import OwnImages, first_recipe

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line.split("#")[0] for _, text in BLOCKS for line in text.splitlines() if line[:5] == "ffds "]


def test_the_loss_as_a_drop_in_trains() -> None:
    code = next(text for kind, text in BLOCKS if kind == "python" and "FFDSLoss" in text)
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 12)
    images, target = torch.randn(64, 4), torch.arange(64) % 12
    before = torch.nn.functional.cross_entropy(model(images), target).item()
    names = {
        "class_counts": list(range(60, 0, -5)),
        "epochs": 30,
        "loader": [(images, target)],
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.5),
    }
    exec(code, names)
    assert torch.nn.functional.cross_entropy(model(images), target).item() < before
    assert names["loss_function"].group_means.isfinite().all()


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images = OwnImages("folder", "photos", (300, 60, 20), False, False, 300, 0)
    text = first_recipe(images, name="photos", file="photos.yaml", gpu=False)  # as `ffds init photos/` does
    Path("photos.yaml").write_text(text, encoding="utf-8")
    options = parsed(shlex.split(command)[1:])
    if "table" in options:
        name = "1a" if options.table == "runs" else options.table
        planned_table(name, columns=options.columns, methods=options.methods, overrides=options.overrides)
    elif "figure" in options:
        load_recipe(options.recipe or "cifar100-lt-100", options.overrides)
    elif "recipe" in options:
        for method in getattr(options, "methods", [None]):
            load_recipe(options.recipe, options.overrides, method=method)


def test_commands_are_shown() -> None:
    assert len(COMMANDS) >= 6
