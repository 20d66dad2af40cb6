"""What a GPU makes of it: ``python -m benchmarks.gpu``; needs one NVIDIA GPU that nobody else uses."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks import conventional
from benchmarks.arguments import add_only, file_of, script_parser
from benchmarks.losses import LOSSES, Work, cross_entropy_work, loss_work
from benchmarks.result import number
from benchmarks.setting import sgd_settings
from ffds.data.dataset import Dataset
from ffds.data.open import open_dataset
from ffds.environment import commit, hardware, versions
from ffds.files import write_json, write_text
from ffds.models.build import build_model
from ffds.paper.reference import METHOD_TITLES
from ffds.recipes.load import load_recipe
from ffds.recipes.schema import Recipe
from ffds.reports.formatting import markdown_table
from ffds.training.phases import phases
from ffds.training.train import train_recipe

__all__ = ["PARTS", "Figure", "main", "part_of_step"]

RESULTS = Path(__file__).parents[1] / "results" / "gpu" / "speed.json"
RECIPE = "cifar100-lt-100"
WORKERS = 16
BATCHES = (128, 512)
PRECISIONS = ("32", "tf32", "bf16")
MODES: Mapping[str, tuple[str, ...]] = {
    "eager": ("trainer.cuda_graphs=false",),
    "eager, CUDA graphs": (),
    "compiled, CUDA graphs": ("trainer.compile=true",),
}
FAST = ("trainer.precision=bf16", "trainer.eval_every=10", "trainer.checkpoint_every=10")
WARM, COUNTED = 2, 5
"""Epochs: in the first ones kernels are chosen, compiled and recorded."""
WIDE = ((1024, 1000), (1024, 8142))
NARROW = (128, 100)
KERNELS = {
    "fused kernels": ("triton",),
    "batch norm": ("batch_norm", "batchnorm"),
    "convolutions": ("conv", "cudnn", "gemm", "cutlass", "fft2d", "complex", "grad", "fprop", "winograd"),
    "optimizer": ("multi_tensor", "sgd", "SGD"),
    "copies": ("Memcpy", "Memset", "copy"),
}
"""Part of a step → what the names of its kernels hold; the first that fits has it."""


class Figure(NamedTuple):
    """One number.

    Attributes:
        part: a key of `PARTS`.
        row: of that part's table.
        column: of that part's table.
        value: median where there are several.
        low: lowest of several.
        high: highest of several.
    """

    part: str
    row: str
    column: str
    value: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, part: str, row: str, column: str, values: Sequence[float]) -> Figure:
        """The median of several measurements."""
        return cls(part, row, column, statistics.median(values), min(values), max(values))


class Place(NamedTuple):
    """Where and how much is measured.

    Attributes:
        root: ``data.root`` of CIFAR-100.
        runs: directory that finished runs are left in.
        jobs: runs at once.
        quick: tiny, on any device, to try the script.
    """

    root: str | None
    runs: Path
    jobs: int
    quick: bool

    def recipe(self, *overrides: str, method: str = "ce") -> Recipe:
        """CIFAR-100-LT 100; the embedded digits to try the script."""
        small = ["model.name=resnet8", "schedule.epochs=3"]
        given = small if self.quick else [f"data.root={json.dumps(self.root)}"]
        return load_recipe("digits" if self.quick else RECIPE, [*given, *overrides], method=method).recipe

    @property
    def modes(self) -> Mapping[str, tuple[str, ...]]:
        """How steps are launched."""
        return {name: given for name, given in MODES.items() if not (self.quick and "compiled" in name)}

    @property
    def workers(self) -> int:
        """Of the conventional loop."""
        return 2 if self.quick else WORKERS

    @property
    def device(self) -> str:
        """Of torch."""
        return "cuda" if torch.cuda.is_available() else "cpu"


def throughput(place: Place) -> Iterator[Figure]:
    """Images a second of training epochs as `ffds train` runs them, and of the conventional loop."""
    dataset = open_dataset(place.recipe().data)
    sizes = (32,) if place.quick else BATCHES
    for size in sizes:
        rates = _conventional(place, dataset, size)
        # Torch's own choice: convolutions in TensorFloat-32.
        row = f"the conventional loop, {place.workers} workers, eager"
        yield Figure.of("throughput", row, f"tf32, {size}", rates)
    for mode, settings in place.modes.items():
        for size in sizes:
            for precision in PRECISIONS:
                overrides = (*settings, f"trainer.precision={precision}", f"trainer.batch_size={size}")
                rates = [entry["images_per_second"] for entry in _epochs(place, dataset, overrides)]
                yield Figure.of("throughput", mode, f"{precision}, {size}", rates)


def losses(place: Place) -> Iterator[Figure]:
    """Forward and backward of the losses, in µs of the GPU: each repeated as a CUDA graph."""
    shapes = [(32, 20)] if place.quick else [*WIDE, NARROW]
    for shape in shapes:
        row = f"F.cross_entropy {shape}"
        yield Figure.of("losses", row, "eager", _repeated(cross_entropy_work(shape, place.device)))
        for name in LOSSES:
            for compiled in (False,) if place.quick else (False, True):
                work = loss_work(name, shape, compiled=compiled, device=place.device)
                column = "compiled" if compiled else "eager"
                yield Figure.of("losses", f"{name} {shape}", column, _repeated(work))


def kernels(place: Place) -> Iterator[Figure]:
    """Where the GPU's time goes in a training step, and how much of the time it is at work."""
    dataset = open_dataset(place.recipe().data)
    for precision in ("bf16", "tf32"):
        for mode, settings in place.modes.items():
            overrides = (*settings, f"trainer.precision={precision}")
            profiled = _Profiled()
            (entry,) = _epochs(place, dataset, overrides, "ffds", profiled, counted=1)
            column = f"{mode}, {precision}"
            steps = -(-len(dataset.train) // 128)
            seconds = len(dataset.train) / entry["images_per_second"]
            for part, (busy, times) in profiled.parts().items():
                yield Figure("kernels", part, column, 1e6 * busy / steps)
                yield Figure("kernels", f"{part}, number", column, times / steps)
            yield Figure("kernels", "a step, by the host's clock", column, 1e6 * seconds / steps)
            yield Figure("kernels", "GPU at work, %", column, 100 * profiled.busy / seconds)


def runs(place: Place) -> Iterator[Figure]:
    """One command by the clock on the wall: start, images, compilation, training, scores, checkpoints.

    Twice: if nothing was compiled on the machine before, the first one does it, and leaves it to the second.
    """
    *_, fastest = place.modes.values()
    for turn in ("first", "again"):
        yield from _timed(place, f"D-FFDS, {turn}", ["train", *_named(place), "method=d-ffds", *fastest])


def methods(place: Place) -> Iterator[Figure]:
    """All methods of Table 1a by one command, several runs at once."""
    command = ["compare", *_named(place), "--methods", ",".join(METHOD_TITLES), "trainer.compile=true"]
    jobs = ["--jobs", str(place.jobs)]
    yield from _timed(place, f"{len(METHOD_TITLES)} methods, compiled, {' '.join(jobs)}", [*command, *jobs])


PARTS: Mapping[str, tuple[str, Callable[[Place], Iterator[Figure]]]] = {
    "throughput": ("Images a second in training, ResNet-32; columns: precision, batch", throughput),
    "losses": ("Forward and backward of a loss, µs of the GPU", losses),
    "kernels": ("A training step of FFDS at batch 128, µs of the GPU", kernels),
    "runs": (
        "One run by the clock on the wall, CIFAR-100-LT 100, 200 epochs, compiled, CUDA graphs, "
        + " ".join(FAST),
        runs,
    ),
    "methods": (f"All methods by the clock on the wall, likewise, {' '.join(FAST)}", methods),
}


def part_of_step(kernel: str) -> str:
    """The part of a step that a kernel belongs to, by its name.

    >>> part_of_step("triton_poi_fused_convolution_relu_3"), part_of_step("sm90_xmma_fprop_implicit_gemm")
    ('fused kernels', 'convolutions')
    """
    fitting = (part for part, names in KERNELS.items() if any(name in kernel for name in names))
    return next(fitting, "the rest")


def page(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """The figures for a person, in Markdown."""
    text = "# On one GPU\n\nMedians. What each table measures: `benchmarks/README.md`.\n"
    for part, (title, _) in PARTS.items():
        if part in entries:
            figures = [Figure(**figure) for figure in entries[part]["figures"]]
            provenance = entries[part]
            said = ", ".join(f"{name} {version}" for name, version in provenance["versions"].items())
            text += f"\n## {title}\n\n{_table(figures)}\n\n"
            text += f"<sub>{provenance['hardware']}; {said}; commit {provenance['commit']}; "
            text += f"`{provenance['command']}`</sub>\n"
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write after each number, so that an interruption keeps what was measured."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(given)
    file = file_of(options, RESULTS)
    entries = json.loads(file.read_text(encoding="utf-8")) if file and file.exists() else {}
    with tempfile.TemporaryDirectory() as directory:
        root = None if options.quick else str(options.data_root)
        place = Place(root, options.runs or Path(directory), options.jobs, options.quick)
        accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else None
        for part in options.only or PARTS:
            provenance = {
                "hardware": hardware(accelerator),
                "versions": versions() | {"cuda": torch.version.cuda},
                "commit": commit(),
                "command": shlex.join(["python", "-m", "benchmarks.gpu", *given]),
            }
            found: list[Figure] = []
            for figure in PARTS[part][1](place):
                print(f"{part}: {figure.row}: {figure.column}: {figure.value:.4g}", flush=True)
                found.append(figure)
                entries[part] = provenance | {"figures": [one._asdict() for one in found]}
                if file is not None:
                    write_json(file, entries)
                    write_text(file.with_suffix(".md"), page(entries))


def _parser() -> argparse.ArgumentParser:
    parser = script_parser("benchmarks.gpu", "What a GPU makes of it.", RESULTS)
    add_only(parser, PARTS)
    pack = Path("../shared/data/cifar100-if10")
    parser.add_argument("--data-root", type=Path, default=pack, metavar="DIR", help="the images of CIFAR-100")
    parser.add_argument("--runs", type=Path, metavar="DIR", help="keep the runs there")
    parser.add_argument("--jobs", type=int, default=4, metavar="N", help="runs at once, %(default)s")
    return parser


class _EnoughError(Exception):
    """As many epochs as were asked for."""


def _epochs(
    place: Place,
    dataset: Dataset,
    overrides: Sequence[str],
    method: str = "ce",
    after: Callable[[int], None] = lambda epoch: None,
    counted: int = COUNTED,
) -> list[dict[str, Any]]:
    """The metrics of some epochs at one rate, neither the first ones nor scored; each has a checkpoint."""
    settings = ("schedule.epochs=1000", "schedule.warmup=0", "trainer.eval_every=1000", *overrides)
    found: list[dict[str, Any]] = []

    def after_epoch(entry: Mapping[str, Any]) -> None:
        after(entry["epoch"])
        if entry["epoch"] > WARM:
            found.append(dict(entry))
        if len(found) == counted:
            raise _EnoughError

    # Otherwise torch stops to compile the same network again and again.
    torch._dynamo.reset()  # type: ignore[no-untyped-call]
    with tempfile.TemporaryDirectory() as directory:
        recipe = place.recipe(*settings, method=method)
        try:
            train_recipe(recipe, out=directory, dataset=dataset, shown=False, after_epoch=after_epoch)
        except _EnoughError:
            return found
    raise AssertionError("a thousand epochs are not enough")


def _conventional(place: Place, dataset: Dataset, size: int) -> list[float]:
    recipe = place.recipe(f"trainer.batch_size={size}")
    (phase,) = phases(recipe, dataset.class_counts)
    channels = dataset.train.images.shape[3]
    model = build_model(
        recipe.model, head="linear", num_classes=dataset.num_classes, in_channels=channels, seed=0
    )
    model.to(place.device)
    optimizer = torch.optim.SGD(model.parameters(), **sgd_settings(recipe))
    transform = conventional.train_transform(recipe.data, dataset.train.images.shape[1])
    pictures = conventional.PictureDataset(dataset.train, transform)
    workers, pinned = place.workers, place.device == "cuda"
    batches = conventional.loader(pictures, batch_size=size, shuffle=True, workers=workers, pinned=pinned)
    rates = []
    for _ in range(WARM + COUNTED):
        began = time.perf_counter()
        conventional.train_epoch(model, batches, phase.stage.loss, optimizer)
        rates.append(len(pictures) / (time.perf_counter() - began))
    return rates[WARM:]


def _repeated(work: Work, repeats: int = 15, times: int = 200) -> list[float]:
    """Microseconds of the GPU a call."""
    if not torch.cuda.is_available():
        work()
        return [0.0]
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(aside)
    graph, found = torch.cuda.CUDAGraph(), []
    with torch.cuda.graph(graph):
        work()
    for _ in range(repeats):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        for _ in range(times):
            graph.replay()
        ended.record()
        ended.synchronize()
        found.append(1e3 * began.elapsed_time(ended) / times)
    return found


class _Profiled:
    """The epoch after the first ones, seen by torch's profiler."""

    def __init__(self) -> None:
        # The host's own events tell nothing here, but something has to be watched where there is no GPU.
        watched = ProfilerActivity.CUDA if torch.cuda.is_available() else ProfilerActivity.CPU
        self._profile = profile(activities=[watched])
        self._times: dict[str, tuple[float, int]] = {}

    def __call__(self, epoch: int) -> None:
        if epoch == WARM:
            self._profile.__enter__()
        elif epoch == WARM + 1:
            self._profile.__exit__(None, None, None)
            for event in self._profile.key_averages():
                if event.device_type == DeviceType.CUDA:
                    self._times[event.key] = (event.self_device_time_total / 1e6, event.count)

    @property
    def busy(self) -> float:
        """Seconds of all kernels."""
        return sum(seconds for seconds, _ in self._times.values())

    def parts(self) -> dict[str, tuple[float, int]]:
        """Seconds and number of kernels of each part."""
        found = dict.fromkeys((*KERNELS, "the rest"), (0.0, 0))
        for kernel, (seconds, times) in self._times.items():
            part = part_of_step(kernel)
            found[part] = (found[part][0] + seconds, found[part][1] + times)
        return found


def _named(place: Place) -> list[str]:
    if place.quick:
        return ["digits", "model.name=resnet8", "schedule.epochs=2", *FAST]
    return [RECIPE, f"data.root={place.root}", *FAST]


def _timed(place: Place, row: str, command: Sequence[str]) -> Iterator[Figure]:
    """Seconds and accuracy of an `ffds` command, and what nvidia-smi says meanwhile."""
    out = place.runs / row.replace(" ", "-").replace(",", "")
    with _watched() as samples:
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", "ffds", *command, "--out", str(out)], check=True)
        seconds = time.monotonic() - began
    part = {"train": "runs", "compare": "methods"}[command[0]]
    yield Figure(part, row, "seconds", seconds)
    if samples:
        yield Figure(part, row, "GPU at work by nvidia-smi, %", statistics.mean(samples))
    for file in sorted(out.glob("*/*/*/summary.json")):
        summary = json.loads(file.read_text(encoding="utf-8"))
        own = summary["method"] if part == "methods" else row
        yield Figure(part, own, "accuracy", summary["accuracy"]["last"])
        yield Figure(part, own, "seconds of its epochs", summary["seconds"])
        if part == "runs":
            yield Figure(part, own, "seconds before and after them", seconds - summary["seconds"])


@contextmanager
def _watched() -> Iterator[list[float]]:
    """The GPU's utilisation in percent, twice a second; nothing where there is no nvidia-smi."""
    samples: list[float] = []
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "500"]
    if shutil.which(command[0]) is None:
        yield samples
        return
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield samples
    finally:
        process.terminate()
        samples += [float(line) for line in process.communicate()[0].split() if line.strip().isdecimal()]


def _table(figures: Iterable[Figure]) -> str:
    figures = list(figures)
    columns = list(dict.fromkeys(figure.column for figure in figures))
    cells = {(figure.row, figure.column): number(figure.value) for figure in figures}
    rows = [["", *columns]]
    for row in dict.fromkeys(figure.row for figure in figures):
        rows.append([row, *(cells.get((row, column), "") for column in columns)])
    return markdown_table(rows)


if __name__ == "__main__":
    main()
