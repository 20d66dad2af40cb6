"""Where the time of a training step goes, before and after: ``python -m benchmarks.step_parts``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.arguments import file_of, script_parser
from benchmarks.setting import FULL, QUICK, RECIPE, SIDE, Sizes, sgd_settings
from ffds.data.transforms import TrainTransform
from ffds.environment import commit, hardware, versions
from ffds.files import write_json
from ffds.models.build import build_model
from ffds.recipes.load import load_recipe
from ffds.recipes.schema import Recipe
from ffds.reports.formatting import markdown_table
from ffds.training.backend.devices import compile_model, keep_freed_memory

__all__ = ["PARTS", "Share", "main", "part_of", "parts_table", "shares"]

RESULTS = Path(__file__).parents[1] / "results" / "step_parts.json"
PARTS = {
    "convolutions": ("convolution",),
    "batch norm": ("batch_norm",),
    "fused kernels": ("graph_", "cpp_fused", "CompiledF"),
    "optimizer": ("sgd", "SGD", "foreach", "zero_grad"),
    "changes of layout": ("contiguous", "copy_", "to_mkldnn", "mkldnn_reorder"),
}
"""Part of a step → what the names of its operations hold; the first that fits has it."""
REST = "the rest"


class Share(NamedTuple):
    """What one part of a step takes.

    Attributes:
        step: which kind of step, a column of the table.
        part: a key of `PARTS`, or the rest.
        seconds: a step, mean.
    """

    step: str
    part: str
    seconds: float


def shares(sizes: Sizes, steps: int) -> list[Share]:
    """Parts of a conventional step, and of ours with one change after the other.

    Args:
        sizes: network, batch and classes.
        steps: that each mean is over.
    """
    recipe = load_recipe(RECIPE, [f"model.name={sizes.network}"], method="ce").recipe
    kinds: dict[str, Callable[[], Callable[[], None]]] = {
        "eager, NCHW": lambda: _step(recipe, sizes, torch.contiguous_format),
        "channels-last, fused SGD": lambda: _step(recipe, sizes, torch.channels_last),
    }
    if sizes.compiled:
        kinds["compiled too"] = lambda: _step(recipe, sizes, torch.channels_last, compiled=True)
    return [share for kind, made in kinds.items() for share in _profiled(kind, made(), steps)]


def part_of(operation: str) -> str:
    """The part of a step that an operation of torch's profiler belongs to.

    >>> part_of("aten::mkldnn_convolution"), part_of("aten::relu_")
    ('convolutions', 'the rest')
    """
    fitting = (part for part, names in PARTS.items() if any(name in operation for name in names))
    return next(fitting, REST)


def parts_table(found: Iterable[Share]) -> str:
    """Milliseconds as a Markdown table: a row for each part, a column for each kind of step."""
    of = {(share.step, share.part): 1e3 * share.seconds for share in found}
    kinds = list(dict.fromkeys(kind for kind, _ in of))
    rows = [["ms a step", *kinds]]
    for part in (*PARTS, REST):
        rows.append([part, *(f"{of[kind, part]:.1f}" for kind in kinds)])
    rows.append(["together", *(f"{sum(of[kind, part] for part in (*PARTS, REST)):.1f}" for kind in kinds)])
    return markdown_table(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Profile, print the table and write the numbers."""
    options = script_parser("benchmarks.step_parts", __doc__, RESULTS).parse_args(arguments)
    keep_freed_memory()
    found = shares(QUICK, 2) if options.quick else shares(FULL, 10)
    print(parts_table(found))
    file = file_of(options, RESULTS)
    if file is not None:
        provenance = {"hardware": hardware(), "versions": versions(), "commit": commit()}
        write_json(file, provenance | {"shares": [share._asdict() for share in found]})


def _profiled(kind: str, step: Callable[[], None], steps: int) -> list[Share]:
    # Twice: while the first one gathers its events the heap grows, and new pages take time.
    for _ in range(2):
        with profile(activities=[ProfilerActivity.CPU]) as found:
            for _ in range(steps):
                step()
    seconds = dict.fromkeys((*PARTS, REST), 0.0)
    for operation in found.key_averages():
        seconds[part_of(operation.key)] += operation.self_cpu_time_total / 1e6 / steps
    return [Share(kind, part, mean) for part, mean in seconds.items()]


def _step(
    recipe: Recipe, sizes: Sizes, layout: torch.memory_format, *, compiled: bool = False
) -> Callable[[], None]:
    """Augmentation, network, cross-entropy, optimizer; the conventional one has plain SGD."""
    size, classes = sizes.narrow
    model = build_model(recipe.model, head="linear", num_classes=classes, in_channels=3, seed=0)
    forward: nn.Module | Callable[[Tensor], Tensor] = model.to(memory_format=layout)
    if compiled:
        forward = compile_model(model, torch.device("cpu"))
    fused = layout == torch.channels_last
    optimizer = torch.optim.SGD(model.parameters(), fused=fused, **sgd_settings(recipe))
    transform = TrainTransform(recipe.data)
    images = torch.randint(256, (size, SIDE, SIDE, 3), dtype=torch.uint8)
    target = torch.randint(classes, (size,))

    def step() -> None:
        prepared = transform(images, seed=0).contiguous(memory_format=layout)
        F.cross_entropy(forward(prepared), target).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    main()
