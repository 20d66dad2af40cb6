"""The verbs that put a trained network to work: predict, adjust, export."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffds.cli.options import add_overrides, add_tta, add_verb, cell, path, print_lines, print_result
from ffds.errors import InputError, tell

if TYPE_CHECKING:
    from ffds.inference.outputs import Row, Write

__all__ = ["add_verbs", "adjust", "export", "predict"]


def predict(options: argparse.Namespace) -> None:
    """Name the classes of images with a trained network."""
    from ffds.inference.inputs import check_inputs, image_files
    from ffds.inference.outputs import Row, check_output
    from ffds.inference.predictor import checked_top_k, load
    from ffds.progress import Progress
    from ffds.run_directory import open_run

    run, top_k = open_run(options.run), checked_top_k(options.top, options.threshold)
    if options.out is not None:
        check_output(options.out)
    total = check_inputs(options.inputs)
    predictor = load(run, device=options.device, adjust=not options.raw, augmentation=options.tta)
    bad: list[Row] = []
    # A bar would be torn by the lines of the predictions.
    shown = options.out is not None or not sys.stdout.isatty()
    progress = Progress("predicting", total, "images", shown=shown)
    with progress, _rows(options, top_k) as write:
        files = predictor.stream(image_files(options.inputs), batch_size=options.batch_size)
        unreadable = 0
        for done, (file, found) in enumerate(files, start=1):
            if isinstance(found, str):
                row, unreadable = Row(file, None, found), unreadable + 1
                bad = bad or [row]
            else:
                row = Row(file, predictor.prediction(found, top_k, options.threshold))
            write(row)
            progress.advance()
            if options.out is not None and 10 * done // total > 10 * (done - 1) // total:
                progress.report(f"{done:,} of {total:,}")
        if bad and unreadable == done:
            got = f"{bad[0].path}: {bad[0].error}"
            raise InputError(f"none of {done:,} images can be read", got=got)
    if bad:
        first = f"{bad[0].path}: {bad[0].error}"
        tell(f"warning: {unreadable:,} of {done:,} images cannot be read, the first of them {first}")
    if options.out is not None and not options.json:
        print_lines([f"written: {options.out}, {done:,} images"])


def adjust(options: argparse.Namespace) -> None:
    """Fit temperature and logit adjustment on validation images; predict, export and ffds.load use them."""
    from ffds.inference.adjustment import FILE
    from ffds.inference.fitting import adjust_run
    from ffds.run_directory import open_run

    run = open_run(options.run)
    found = adjust_run(run, options.overrides, prior=options.prior, tau=options.tau, by=options.by)
    rows = [["images", "classes", "accuracy", "ECE", "NLL", "accuracy after", "ECE after", "NLL after"]]
    for name, groups in found.before.items():
        for group, before in groups.items():
            after = found.after[name][group]
            rows.append([name, group, *map(cell, (*before.values(), *after.values()))])
    how = (
        f"{found}, chosen by {found.chosen_by.replace('_', ' ')}"
        if found.chosen_by != "given"
        else str(found)
    )
    title = f"{how}, on {found.validation_images:,} validation images; accuracy and ECE in percent"
    print_result(options, found.model_dump(), {title: rows}, f"written: {run.path / FILE}")


def export(options: argparse.Namespace) -> None:
    """Write a trained network as a file for other programs, and check that it does the same."""
    from ffds.inference.export import export_run
    from ffds.run_directory import open_run

    run, adjusted = open_run(options.run), not options.raw
    given = {"preprocess": options.preprocess, "opset": options.opset, "adjust": adjusted}
    found = export_run(run, options.format, options.out, **given)
    content = {**found._asdict(), "path": str(found.path)}
    same = f"checked: same labels on {found.images:,} {found.checked_on}, "
    same += f"probabilities differ by at most {found.difference:.1e}"
    print_result(options, content, {}, f"written: {found.path}", same)


@contextmanager
def _rows(options: argparse.Namespace, top_k: int) -> Iterator[Write]:
    """A function that writes a row to where the arguments say."""
    from ffds.inference.outputs import json_rows, written_rows

    if options.out is not None:
        with written_rows(Path(options.out), top_k) as write:
            yield write
    elif options.json:
        with json_rows(sys.stdout) as write:
            yield write
    else:
        yield lambda row: print_lines([_line(row)])


def _line(row: Row) -> str:
    """One file in words.

    >>> from ffds.inference.outputs import Row
    >>> from ffds.inference.predictor import Prediction
    >>> _line(Row(Path("a.jpg"), Prediction("cat", 0.75, (("cat", 0.75), ("dog", 0.2)))))
    'a.jpg: cat 75.0 % (dog 20.0 %)'
    """
    found = row.prediction
    if found is None:
        return f"{row.path}: error: {row.error}"
    best, *others = (f"{name} {100 * value:.1f} %" for name, value in found.top)
    if found.label != found.top[0][0]:
        best = f"{found.label} (at best {best})"
    return f"{row.path}: {best}" + (f" ({', '.join(others)})" if others else "")


def add_verbs(verbs: Any) -> None:
    """Add predict, adjust and export."""
    parser = add_verb(verbs, "predict", predict)
    add = parser.add_argument
    add("run", type=path, metavar="RUN", help="a run directory")
    add("inputs", type=path, nargs="+", metavar="INPUT", help="an image, or a folder with all below it")
    add("--out", type=path, metavar="FILE", help="write one row per image: .csv, .json, .parquet")
    about = "name the K most probable classes (default: 1)"
    add("--top", type=int, default=1, metavar="K", help=about)
    about = 'call an image "unknown" whose most probable class is less probable than P (default: 0)'
    add("--threshold", type=float, default=0.0, metavar="P", help=about)
    add("--batch-size", type=int, default=250, metavar="N", help="images at a time (default: 250)")
    about = "cpu, cuda, cuda:N or mps (default: a GPU if there is one)"
    add("--device", metavar="D", help=about)
    add_tta(parser)
    about = "leave out what ffds adjust has saved beside the run"
    add("--raw", action="store_true", help=about)

    parser = add_verb(verbs, "adjust", adjust)
    add = parser.add_argument
    add("run", type=path, metavar="RUN", help="a run directory with held-out validation images")
    about = "shares of the classes to adjust to: uniform, train or FILE (default: uniform)"
    add("--prior", default="uniform", metavar="P", help=about)
    about = "strength of the adjustment (default: for uniform the best on validation, else 1)"
    add("--tau", type=float, metavar="T", help=about)
    about = "what chooses the strength: balanced_accuracy (default), nll (mean over the classes)"
    add("--by", choices=("balanced_accuracy", "nll"), default="balanced_accuracy", help=about)
    add_overrides(parser)

    parser = add_verb(verbs, "export", export)
    add = parser.add_argument
    add("run", type=path, metavar="RUN", help="a run directory")
    about = "onnx, torch (a program of torch.export), or timm (a folder in the layout of the hub)"
    add("--format", choices=("onnx", "torch", "timm"), required=True, help=about)
    add("--out", type=path, metavar="PATH", help="the file or folder (default: in the run directory)")
    about = "resize and normalise in the graph: images are uint8 (N, S, S, C)"
    add("--preprocess", action="store_true", help=about)
    add("--opset", type=int, metavar="N", help="version of ONNX's operators (default: the exporter's)")
    add("--raw", action="store_true", help="leave out what ffds adjust has saved beside the run")
