"""A captured step, replayed without Python, does what the step does."""

import json

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from ffds.errors import NonFiniteLossError
from ffds.training.backend.cuda_graphs import MAX_GRAPHS, CudaGraphs, Graph, allows_cuda_graphs
from tests.training import tiny

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Traced:
    """In place of a CUDA graph, and as blind: the operations of torch, without the Python around them.

    To trace them does them, where a GPU only takes note: so the first repetition gives what tracing gave.
    """

    made = 0

    def __init__(self, work, inputs, pool):
        type(self).made += 1
        self.pool, self.inputs, self.output = pool, [tensor.clone() for tensor in inputs], None

        def traced(*tensors):
            # A graph has an output.
            self.output = work(*tensors)
            return torch.zeros(()) if self.output is None else self.output

        self.graph = make_fx(traced)(*self.inputs)
        self.fresh = True

    def replay(self, *inputs):
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        if self.fresh:
            self.fresh = False
            return self.output
        with torch.no_grad():
            output = self.graph(*self.inputs)
        return None if self.output is None else output


@pytest.fixture
def traced(monkeypatch):
    monkeypatch.setattr("ffds.training.backend.cuda_graphs.Graph", Traced)
    monkeypatch.setattr("ffds.training.loop.allows_cuda_graphs", lambda *given: True)
    monkeypatch.setattr(Traced, "made", 0)
    return Traced


LONG = ("schedule.epochs=6", "schedule.warmup=2", "trainer.batch_size=20")


ADAMW = ("optimizer.name=adamw", "optimizer.head_lr=0.2", "schedule.epochs=3")


@pytest.mark.parametrize(
    ("method", "settings"), [("ce", ()), ("ldam-drw", ()), ("ib-fl", ()), ("d-ffds", ()), ("ce", ADAMW)]
)
def test_a_run_of_captured_steps_is_the_same_run(method, settings, tmp_path, monkeypatch, traced):
    """Over every change between steps: of the rate, of the phase, of the size, of a loss's statistics."""
    recipe = tiny.recipe(*LONG, *settings, method=method)
    captured = tiny.train(recipe, tmp_path / "captured")
    assert traced.made >= 3
    monkeypatch.undo()
    assert tiny.trace(captured) == tiny.trace(tiny.train(recipe, tmp_path / "plain"))


def test_a_captured_step_that_is_not_finite_stops_the_run_where_a_plain_one_does(
    tmp_path, monkeypatch, traced
):
    found = []
    for place in ("captured", "plain"):
        loop = tiny.loop(tmp_path / place, tiny.recipe(method="ce"))
        bias = loop.state.model.head.bias
        loop.after_epoch = lambda entry, bias=bias: bias.data.fill_(torch.nan if entry["epoch"] == 3 else 0.0)
        with pytest.raises(NonFiniteLossError, match="epoch 4, step 1 ") as caught:
            loop.train()
        found.append(json.loads(caught.value.diagnosis.read_text()))
        if place == "captured":
            assert traced.made >= 2
            monkeypatch.undo()
    assert found[0] == found[1]


def test_a_function_is_captured_on_its_second_call(traced):
    graphs, done = CudaGraphs(on=True), []

    def work(x):
        done.append(len(x))
        return x + 1

    for _ in range(4):
        assert graphs("key", work, torch.ones(2)).tolist() == [2, 2]
    assert graphs("key", work, torch.full((2,), 5.0)).tolist() == [6, 6]
    assert done == [2, 2]
    graphs("another", work, torch.ones(2))
    graphs("key", work, torch.ones(3))
    graphs("key", work, torch.ones(2, dtype=torch.float64))
    assert done == [2, 2, 2, 3, 2]
    assert traced.made == 1
    for _ in range(3):
        CudaGraphs(on=False)("key", torch.neg, torch.ones(1))
    assert traced.made == 1


def test_few_graphs_are_kept(traced):
    graphs = CudaGraphs(on=True)
    for key in [*range(2 * MAX_GRAPHS), *range(2 * MAX_GRAPHS)]:
        assert graphs(key, lambda x, by=key: x * by, torch.ones(1)).item() == key
    assert traced.made == 2 * MAX_GRAPHS
    graphs(2 * MAX_GRAPHS - 1, torch.neg, torch.ones(1))
    graphs(0, torch.neg, torch.ones(1))
    assert traced.made == 2 * MAX_GRAPHS + 1, "the newest was there, the oldest was not"


def test_what_cannot_be_captured_runs_eagerly(monkeypatch, capsys):
    class Refusing:
        def __init__(self, work, inputs, pool):
            work(*inputs)
            raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr("ffds.training.backend.cuda_graphs.Graph", Refusing)
    graphs = CudaGraphs(on=True)
    found = [graphs("key", torch.neg, torch.full((1,), float(number))).item() for number in range(5)]
    assert found == [0, -1, -2, -3, -4]
    told = capsys.readouterr().err
    assert told.count("warning: ") == 1
    assert "got:     operation not permitted when stream is capturing\n" in told
    assert "trainer.cuda_graphs=false" in told


class OnCuda:
    """A device that only says what it is."""

    world_size, device = 1, torch.device("cuda")


CAPTURED = {"": True, "trainer.compile=true": True, "trainer.precision=bf16": True, "own loss": False}
CAPTURED |= {"trainer.precision=16": False, "trainer.cuda_graphs=false": False}


@pytest.mark.parametrize("setting", CAPTURED)
def test_where_steps_are_captured(setting):
    recipe = tiny.own() if setting == "own loss" else tiny.recipe(*filter(None, [setting]))
    several, cpu = {"world_size": 2}, {"device": torch.device("cpu")}
    assert allows_cuda_graphs(OnCuda(), recipe) == CAPTURED[setting]
    assert not allows_cuda_graphs(type("Several", (OnCuda,), several)(), recipe)
    assert not allows_cuda_graphs(type("OnCpu", (OnCuda,), cpu)(), recipe)


@on_a_gpu
@pytest.mark.parametrize("precision", ["32", "tf32", "bf16"])
@pytest.mark.parametrize("method", ["d-ffds", "ldam-drw", "ib-fl"])
def test_a_captured_run_on_a_gpu_is_the_same_run(method, precision, tmp_path, monkeypatch):
    settings = ("trainer.accelerator=cuda", "trainer.deterministic=true", f"trainer.precision={precision}")
    made, original = [], Graph.__init__
    monkeypatch.setattr(Graph, "__init__", lambda *given: made.append(original(*given)))
    traces = []
    for kind in ("true", "false"):
        recipe = tiny.recipe(*LONG, *settings, f"trainer.cuda_graphs={kind}", method=method)
        traces.append(tiny.trace(tiny.train(recipe, tmp_path / kind)))
        assert len(made) >= 3
    assert len(made) < 30
    assert traces[0] == traces[1]


@on_a_gpu
@pytest.mark.parametrize("waits", [False, True])
def test_captured_dropout_draws_by_the_seed(waits, capsys):
    def work(x):
        if waits and x.sum().item() < 0:
            return x
        return nn.functional.dropout(x)

    graphs, x, drawn = CudaGraphs(on=True), torch.ones(1000, device="cuda"), []
    for seed in (1, 2, 3, 1, 2, 3):
        torch.manual_seed(seed)
        drawn.append(graphs("key", work, x).clone())
    for seed, one in zip((1, 2, 3, 1, 2, 3), drawn, strict=True):
        torch.manual_seed(seed)
        assert torch.equal(one, work(x))
    assert capsys.readouterr().err.count("warning: ") == waits
