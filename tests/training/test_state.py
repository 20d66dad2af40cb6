"""All of a run's state goes into a checkpoint and comes back; several processes do what one would do."""

import atexit
import errno
import json
import math
import os
import shutil
import signal
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn

from ffds.cli import main
from ffds.errors import FfdsError
from ffds.models.build import Classifier
from ffds.models.heads import LinearHead
from ffds.recipes.load import load_recipe
from ffds.run_directory import Run
from ffds.training.backend.devices import launch_fabric
from ffds.training.backend.ranks import any_rank, average_buffers, gather_ranks, sum_over_ranks
from ffds.training.state import Reached
from tests import killed
from tests.training import processes, tiny

ON_CPU = "trainer.accelerator=cpu"
NEVER = 1000


@pytest.mark.parametrize(
    ("accuracies", "best", "epoch"),
    [([math.nan, 40.0, 60.0, None, 60.0, 20.0], 60.0, 3), ([0.0], 0.0, 1), ([math.nan, None], None, None)],
)
def test_the_best_epoch(accuracies, best, epoch):
    reached = Reached()
    for number, accuracy in enumerate(accuracies, 1):
        reached.consider(accuracy, number)
    assert (reached.best_on_test, reached.best_epoch) == (best, epoch)


def end(group):
    return [processes.exit_code(process) for process in group]


def agree(rank, out):
    at_exit = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atexit, "register", at_exit.append)
        fabric = launch_fabric(tiny.recipe(ON_CPU).trainer)
    mean, total = torch.tensor([1.0, 2.0]) * (rank + 1), torch.tensor([3 + rank])
    sum_over_ranks(fabric, mean, total)
    norm = nn.BatchNorm1d(1)
    norm.running_mean.fill_(rank)
    norm.num_batches_tracked.fill_(5 + rank)
    average_buffers(fabric, norm)
    tensors = gather_ranks(fabric, {"a": torch.tensor(float(rank)), "b.c": torch.tensor([[rank, 7]])})
    flags = [any_rank(fabric, flag) for flag in (False, rank == 0, rank == 1, True)]
    buffers = [norm.running_mean.item(), norm.num_batches_tracked.item()]
    gathered = {name: tensor.tolist() for name, tensor in tensors.items()}
    agreed = [flags, mean.tolist(), total.tolist(), buffers, gathered]
    for leave in at_exit:
        leave()
    (out / f"{rank}.json").write_text(json.dumps([*agreed, dist.is_initialized()]))


def test_collectives(tmp_path):
    def agreed(rank):
        return json.loads((tmp_path / f"{rank}.json").read_text())

    assert end(processes.ranks(agree, tmp_path, log=tmp_path / "log")) == [0, 0]
    gathered = {"rank0.a": 0.0, "rank1.a": 1.0, "rank0.b.c": [[0, 7]], "rank1.b.c": [[1, 7]]}
    for rank in range(2):
        assert agreed(rank) == [[False, True, True, True], [3.0, 6.0], [7], [0.5, 5 + rank], gathered, False]
    agree(0, tmp_path)
    gathered = {"rank0.a": 0.0, "rank0.b.c": [[0, 7]]}
    assert agreed(0) == [[False, True, False, True], [1.0, 2.0], [3], [0, 5], gathered, False], "alone"


def without_batch_norm(model, *, num_classes, **_):
    """A network whose gradient is a mean over images, so that shares add up."""
    generator = torch.Generator().manual_seed(5)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU())
    network = Classifier(backbone, LinearHead(24, num_classes))
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / 5)
    return network


def train_plain(_rank, out, method, batch_size, lr, *settings):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ffds.training.state.build_model", without_batch_norm)
        settings = (ON_CPU, f"trainer.batch_size={batch_size}", f"optimizer.lr={lr}", *settings)
        if method == "custom":
            tiny.train(tiny.own(*settings), out, loss=tiny.Scaled())
        else:
            tiny.train(tiny.recipe(*settings, method=method), out)


SHARES = [("d-ffds", 33, 0.05, ()), ("ib", 5, 0.001, ()), ("custom", 33, 0.01, ())]
SHARES += [("ldam-drw", 13, 0.05, ()), ("ldam-drw", 13, 0.005, ("data.mixup=1", "data.cutmix=1"))]
SHARES += [("ce", 7, 0.05, ("method.sampler=class-balanced",))]


@pytest.mark.parametrize(("method", "batch_size", "lr", "settings"), SHARES)
def test_uneven_shares_give_the_gradient_of_one_process(method, batch_size, lr, settings, tmp_path):
    asked = (method, batch_size, lr, *settings)
    train_plain(0, tmp_path / "one", *asked)
    group = processes.ranks(train_plain, tmp_path / "two", *asked, log=tmp_path / "log")
    assert end(group) == [0, 0], (tmp_path / "log-rank0").read_text()
    (one,), (two,) = (list((tmp_path / name).glob("digits/*/*")) for name in ("one", "two"))
    last = f"checkpoints/epoch-{tiny.EPOCHS:04d}"
    ours, theirs = (load_file(path / last / "model.safetensors") for path in (one, two))
    for name, weight in ours.items():
        torch.testing.assert_close(theirs[name], weight, rtol=1e-4, atol=1e-5)
    for mine, other in zip(Run(one).metrics, Run(two).metrics, strict=True):
        assert other["train"]["loss"] == pytest.approx(mine["train"]["loss"], rel=1e-4)
        assert other["train"]["accuracy"] == pytest.approx(mine["train"]["accuracy"], abs=1.1)
    table = pq.read_table(two / "predictions.parquet")
    assert table["index"].to_pylist() == list(range(40))
    expected = pq.read_table(one / "predictions.parquet")["label_probability"].to_pylist()
    assert table["label_probability"].to_pylist() == pytest.approx(expected, abs=1e-4)
    if method == "custom":
        losses = load_file(two / last / "loss.safetensors")
        alone = load_file(one / last / "loss.safetensors")
        for name in ("scale", "bias"):
            assert torch.equal(losses[f"rank0.0.{name}"], losses[f"rank1.0.{name}"])
            torch.testing.assert_close(
                losses[f"rank0.0.{name}"], alone[f"rank0.0.{name}"], rtol=1e-4, atol=1e-5
            )
    if method == "d-ffds":
        losses = load_file(two / last / "loss.safetensors")
        alone = load_file(one / last / "loss.safetensors")["rank0.1.group_means"]
        assert torch.equal(losses["rank0.1.group_means"], losses["rank1.1.group_means"])
        torch.testing.assert_close(losses["rank0.1.group_means"], alone, rtol=1e-4, atol=0)
        assert losses["rank0.epoch.total"].sum() == 0


def train_each(rank, out, *settings):
    """One method of each kind after the other, in the same processes, without noise in their losses.

    Each rank draws that for its own rows, so it differs from the noise of one process. Nor is there a batch
    norm, whose statistics are those of each rank, in a projection.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn_like", torch.zeros_like)
        patch.setattr(nn, "BatchNorm1d", lambda *size, **how: nn.Identity())
        for method in tiny.KINDS:
            train_plain(rank, out / method, method, 13, 0.001, "schedule.epochs=2", *settings)


def test_two_ranks_train_every_kind_of_method_as_one_process_does(tmp_path):
    train_each(0, tmp_path / "one")
    assert end(processes.ranks(train_each, tmp_path / "two", log=tmp_path / "log")) == [0, 0]
    for method in tiny.KINDS:
        one, two = (Run(next((tmp_path / name / method).glob("digits/*/seed*"))) for name in ("one", "two"))
        newest = sorted(path.name for path in one.checkpoints.iterdir())[-1]
        ours, theirs = (load_file(run.checkpoints / newest / "model.safetensors") for run in (one, two))
        for name, weight in ours.items():
            torch.testing.assert_close(theirs[name], weight, rtol=1e-3, atol=1e-5, msg=f"{method}: {name}")
        for mine, other in zip(one.metrics, two.metrics, strict=True):
            assert other["train"]["loss"] == pytest.approx(mine["train"]["loss"], rel=1e-3), method


@pytest.mark.parametrize("method", ["ldam-drw", "d-ffds", "ib"])
def test_parts_give_the_gradient_of_the_whole_batch(method, tmp_path):
    """Also class-weighted losses, whose mean divides by the sum of weights, and statistics of an epoch."""
    files, metrics = [], []
    for parts in (1, 3):
        lr, out = 0.001 if method == "ib" else 0.05, tmp_path / f"{parts}"
        train_plain(0, out, method, 13, lr, f"trainer.accumulate={parts}", "schedule.epochs=2")
        (path,) = out.glob("digits/*/*")
        kept = [
            load_file(path / "checkpoints/epoch-0002" / f"{name}.safetensors") for name in ("model", "loss")
        ]
        files.append(kept[0] | kept[1])
        metrics.append(Run(path).metrics)
    for name, tensor in files[0].items():
        if not name.endswith(("epoch.loss_sum", "correct")):
            torch.testing.assert_close(files[1][name], tensor, rtol=1e-3, atol=1e-4, equal_nan=True)
    for mine, other in zip(*metrics, strict=True):
        assert other["train"]["loss"] == pytest.approx(mine["train"]["loss"], rel=1e-4)
        assert other["train"]["accuracy"] == pytest.approx(mine["train"]["accuracy"], abs=1.1)


def test_two_ranks_clip_average_and_add_up_parts_as_one_process(tmp_path):
    settings = ("trainer.ema=0.9", "trainer.clip_norm=0.3", "trainer.accumulate=4", "schedule.epochs=2")
    asked = ("ldam-drw", 13, 0.05, *settings)
    train_plain(0, tmp_path / "one", *asked)
    assert end(processes.ranks(train_plain, tmp_path / "two", *asked, log=tmp_path / "log")) == [0, 0]
    for name in ("model", "optimizer"):
        file = f"digits/*/*/checkpoints/epoch-0002/{name}.safetensors"
        ours, theirs = (load_file(next((tmp_path / one).glob(file))) for one in ("one", "two"))
        for key, tensor in ours.items():
            torch.testing.assert_close(theirs[key], tensor, rtol=1e-3, atol=1e-4)


def train_stopping_one(rank, out, polls, recipe=None, **given):
    """Only the second rank is asked to stop."""
    try:
        tiny.train(recipe or tiny.recipe(ON_CPU), out, polls=polls if rank == 1 else NEVER, **given)
    except FfdsError as error:
        print(error, flush=True)
        return error.exit_code
    return 0


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    out = tmp_path_factory.mktemp("two-ranks")
    assert end(processes.ranks(train_stopping_one, out, NEVER, log=out / "log")) == [0, 0]
    return Run.of(tiny.recipe(ON_CPU), out)


@pytest.mark.parametrize(
    ("polls", "place"), [(tiny.STEPS, "epoch-0000-step-00003"), (2 * tiny.STEPS + 1, "epoch-0002-step-00001")]
)
def test_a_signal_to_one_rank_stops_all_and_all_go_on(polls, place, tmp_path, two_ranks):
    group = processes.ranks(train_stopping_one, tmp_path, polls, log=tmp_path / "log")
    assert end(group) == [75, 75], (tmp_path / "log-rank0").read_text()
    assert "a signal to another rank" in (tmp_path / "log-rank0").read_text()
    assert "SIGTERM" in (tmp_path / "log-rank1").read_text()
    run = Run.of(tiny.recipe(ON_CPU), tmp_path)
    assert sorted(path.name for path in run.checkpoints.iterdir())[-1] == place
    alone = processes.forked(train_stopping_one, 0, tmp_path, NEVER, log=tmp_path / "alone")
    assert processes.exit_code(alone) == 2, "within an epoch"
    assert "another number of processes\n  got:     1\n  allowed: 2" in (tmp_path / "alone").read_text()
    assert end(processes.ranks(train_stopping_one, tmp_path, NEVER, log=tmp_path / "log")) == [0, 0]
    assert tiny.trace(run) == tiny.trace(two_ranks)


def test_after_an_epoch_another_number_of_ranks_goes_on(tmp_path):
    alone = processes.forked(train_stopping_one, 1, tmp_path, 2 * tiny.POLLS, log=tmp_path / "alone")
    assert processes.exit_code(alone) == 75
    run = Run.of(tiny.recipe(ON_CPU), tmp_path)
    for unfinished in run.checkpoints.glob("*-step-*"):
        shutil.rmtree(unfinished)
    assert end(processes.ranks(train_stopping_one, tmp_path, NEVER, log=tmp_path / "log")) == [0, 0]
    assert [line["epoch"] for line in run.metrics] == list(range(1, tiny.EPOCHS + 1))


def command(_rank, arguments):
    return main(arguments)


def test_sigterm_to_one_rank(tmp_path):
    settings = (*tiny.SETTINGS, "schedule.epochs=500", ON_CPU)
    arguments = ["train", "digits", *settings, "--out", str(tmp_path)]
    group = processes.ranks(command, arguments, log=tmp_path / "log")
    run = Run.of(load_recipe("digits", settings).recipe, tmp_path)
    processes.wait_for((run.checkpoints / "epoch-0002").exists, group[0])
    os.kill(group[1].pid, signal.SIGTERM)
    assert end(group) == [75, 0], "the exit code is that of the first rank"
    assert len(list(run.checkpoints.iterdir())) == 2
    assert not run.done


class NotFiniteOnOne(nn.CrossEntropyLoss):
    def forward(self, logits, target):
        loss = super().forward(logits, target)
        return loss * float("nan") if dist.get_rank() == 1 else loss


def train_into_not_finite(rank, out):
    return train_stopping_one(rank, out, NEVER, tiny.own(ON_CPU), loss=NotFiniteOnOne())


def test_not_finite_on_one_rank_stops_all(tmp_path):
    assert end(processes.ranks(train_into_not_finite, tmp_path, log=tmp_path / "log")) == [3, 3]
    (run,) = tmp_path.glob("digits/custom/*")
    own, other = (json.loads((run / f"diagnosis{rank}.json").read_text()) for rank in ("-rank1", ""))
    assert own["loss"] == "nan" != other["loss"]
    assert not set(own["samples"]) & set(other["samples"])


def train_on_a_full_disk(rank, out):
    fsync = os.fsync

    def full(descriptor):
        if ".tmp/" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        return train_stopping_one(rank, out, NEVER)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="names a descriptor by /proc")
def test_a_disk_full_on_the_first_rank_ends_all(tmp_path):
    assert end(processes.ranks(train_on_a_full_disk, tmp_path, log=tmp_path / "log")) == [2, 2]
    assert "disk full while saving a checkpoint" in (tmp_path / "log-rank0").read_text()
    assert "the first rank could not save" in (tmp_path / "log-rank1").read_text()


class FailsLater(nn.CrossEntropyLoss):
    """In step 2 of epoch 2, on one rank: killed, or with an error of its own."""

    def __init__(self, rank, how):
        super().__init__()
        self._rank, self._how = rank, how
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, logits, target):
        self.calls += 1
        if self.calls > tiny.STEPS + 1 and dist.get_rank() == self._rank:
            if self._how == "killed":
                processes.kill_self()
            raise ZeroDivisionError("of the loss")
        return super().forward(logits, target)


def train_until_one_fails(rank, out, failing, how):
    return train_stopping_one(rank, out, NEVER, tiny.own(ON_CPU), loss=FailsLater(failing, how))


@pytest.mark.parametrize(("failing", "how"), [(1, "killed"), (0, "killed"), (1, "error")])
def test_a_rank_that_fails_ends_the_others_and_is_named(failing, how, tmp_path):
    codes = end(processes.ranks(train_until_one_fails, tmp_path, failing, how, log=tmp_path / "log"))
    assert codes[failing] == (-signal.SIGKILL if how == "killed" else 1)
    assert codes[1 - failing] == FfdsError.exit_code
    told = (tmp_path / f"log-rank{1 - failing}").read_text()
    why = "ended without a word" if how == "killed" else "failed with ZeroDivisionError: of the loss"
    assert f"rank {failing} {why}; the same command goes on" in told
    assert "Traceback" not in told
    assert ("error: " in told) == (failing == 0), "else the first rank speaks"


def train_until_one_dies(rank, out):
    place = ("ffds.training.step", "TrainStep.__call__", tiny.STEPS + 2 if rank == 1 else NEVER, "before")
    killed.until(lambda directory: train_stopping_one(rank, directory, NEVER), out, *place)


def test_after_a_rank_died_all_go_on(tmp_path, two_ranks):
    codes = end(processes.ranks(train_until_one_dies, tmp_path, log=tmp_path / "log"))
    assert codes[1] == -signal.SIGKILL
    assert end(processes.ranks(train_stopping_one, tmp_path, NEVER, log=tmp_path / "log")) == [0, 0]
    assert tiny.trace(Run.of(tiny.recipe(ON_CPU), tmp_path)) == tiny.trace(two_ranks)


@pytest.mark.parametrize("launcher", ["trainer.devices", "torchrun"])
def test_a_launched_command(launcher, tmp_path):
    devices = ("trainer.devices=2",) if launcher == "trainer.devices" else ()
    settings = ("model.name=resnet20", "schedule.epochs=2", ON_CPU, *devices)
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    prefix = torchrun if launcher == "torchrun" else ()
    arguments = ("-m", "ffds", "train", "digits", *settings, "--out", str(tmp_path / "runs"))
    process = processes.started(sys.executable, *prefix, *arguments, log=tmp_path / "log")
    assert processes.exit_code(process) == 0, (tmp_path / "log").read_text()
    assert (tmp_path / "log").read_text().count("accuracy, last epoch") == 1, "one table, not one a rank"
    run = Run.of(load_recipe("digits", settings).recipe, tmp_path / "runs")
    assert [line["epoch"] for line in run.metrics] == [1, 2]
    assert pq.read_table(run.predictions)["index"].to_pylist() == list(range(500))
    assert len(list(run.checkpoints.iterdir())) == 2
    before = (run.path / "summary.json").stat().st_mtime_ns
    again = processes.forked(main, list(arguments[2:]), log=tmp_path / "again")
    assert processes.exit_code(again) == 0
    assert "already done" in (tmp_path / "again").read_text()
    assert (run.path / "summary.json").stat().st_mtime_ns == before
