"""Group means over several processes, also of a loss that is a part of the model they share."""

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ffds.losses import FFDSLoss

COUNTS = [40, 500, 7, 120, 3, 260]  # three groups: classes 1 and 5, 3 and 0, 2 and 4
EPOCHS = {
    "halves": ([1, 5, 3, 2], [1, 0, 3, 4]),
    "uneven, a group on one rank only": ([1, 5, 1, 3, 1, 5, 0], [2]),
    "a group on no rank": ([1], [5, 1, 0]),
    "one rank without a sample": ([4, 2, 1], []),
}


def share(epoch: int, rank: int) -> tuple[Tensor, Tensor]:
    labels = list(EPOCHS.values())[epoch][rank]
    generator = torch.Generator().manual_seed(10 * epoch + rank)
    return 2 * torch.randn(len(labels), len(COUNTS), generator=generator), torch.tensor(labels).long()


def train(ranks: list[int]) -> list[tuple[Tensor, Tensor]]:
    """Group means after each epoch, and the loss of a fixed batch under them."""
    loss, seen = FFDSLoss(COUNTS, num_groups=3, reduction="none"), []
    for epoch in range(len(EPOCHS)):
        for rank in ranks:
            loss.train()(*share(epoch, rank))
        loss.end_epoch()
        seen.append((loss.group_means.clone(), loss.eval()(*share(0, 0))))
    return seen


def train_inside_a_model(rank: int) -> dict[str, Tensor]:
    """Ten steps of a model that holds its loss, 8 samples a rank, saved and loaded in the middle."""
    model = nn.ModuleDict({"head": nn.Linear(4, 4), "loss": FFDSLoss([100, 50, 20, 5], num_groups=2)})
    model.forward = lambda x, y: model["loss"](model["head"](x), y)
    model.head.weight.data.fill_(0.1)
    parallel = DistributedDataParallel(model)
    for step in range(10):
        generator = torch.Generator().manual_seed(2 * step + rank)
        parallel(torch.randn(8, 4, generator=generator), torch.full((8,), 2 * rank)).backward()
        if step == 4:
            parallel.load_state_dict(copy.deepcopy(parallel.state_dict()))
    gathered = copy.deepcopy(model.loss.gathered.state_dict())
    model.loss.end_epoch()
    return gathered | {"group_means": model.loss.group_means, "bias": model.head.bias.grad}


def run_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save(train_inside_a_model(rank), folder / f"model{rank}.pt")
    torch.save(train([rank]), folder / f"rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if not dist.is_gloo_available():
        pytest.skip("this build of torch has no gloo")
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(run_rank, (folder,), nprocs=2)
    return folder


@pytest.mark.parametrize("epoch", range(len(EPOCHS)), ids=list(EPOCHS))
def test_each_rank_has_the_means_of_a_single_process(folder, epoch):
    of_ranks = [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]
    means, values = train([0, 1])[epoch]
    for seen in of_ranks:
        torch.testing.assert_close(seen[epoch][0], means, rtol=1e-6, atol=0, equal_nan=True)
        torch.testing.assert_close(seen[epoch][1], values, rtol=1e-5, atol=0)
    assert torch.equal(of_ranks[0][epoch][0], of_ranks[1][epoch][0])
    assert not torch.allclose(train([0])[epoch][0], means, equal_nan=True), (
        "one share alone tells another mean"
    )


def test_a_loss_inside_a_parallel_model_gathers_the_samples_of_its_own_rank(folder):
    """DistributedDataParallel gives all ranks the buffers of the first one before each step: 152 and 8."""
    ranks = [torch.load(folder / f"model{rank}.pt") for rank in range(2)]
    assert [rank["counts"].tolist() for rank in ranks] == [[80, 0, 0, 0], [0, 0, 80, 0]]
    for rank in ranks:
        assert torch.equal(rank["group_means"], ranks[0]["group_means"])
        torch.testing.assert_close(rank["bias"], ranks[0]["bias"])
    expected = [rank["sums"].sum() / 80 for rank in ranks]
    torch.testing.assert_close(ranks[0]["group_means"], torch.stack(expected))
