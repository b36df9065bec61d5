"""Two ranks of half the batch give the gradient of one process with all of it, for every loss."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from loss_cases import CASES, WIDTH, Case, rows
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from clctl.distributed import gather, largest, mean, total, world
from clctl.losses import sinkhorn, sup_con, update_center
from clctl.rng import seeded

RANKS, ROWS = 2, 5
WHOLE = slice(None)
# What both sides have in common falls out of distances and centred columns, so there a bias has
# no gradient; everywhere else it must.
SHIFTLESS = {"correlation"} | {k for k, c in CASES.items() if c.sort in ("distance", "columns")}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with seeded("losses", "net"):
            self.layer = nn.Linear(WIDTH, WIDTH, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """A loss of batch statistics: how far the cross-correlation is from the identity."""
    a, b = (x - mean(x.mean(dim=0)) for x in (a, b))
    return (mean(a.T @ b / len(a)) - torch.eye(WIDTH, dtype=a.dtype)).square().sum()


def part(case: Case, mine: slice) -> list[Tensor]:
    """This rank's rows of the inputs; what is not one row per sample is the same on all ranks."""
    drawn = zip(case.names, case.draw(RANKS * ROWS), strict=True)
    return [x if name in ("bank", "center") else x[mine] for name, x in drawn]


def lonely(net: nn.Module, mine: slice) -> Tensor:
    """SupCon of which all anchors with a positive are on the first rank."""
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 3, 4, 5, 6])
    return sup_con(net(rows("z", n=RANKS * ROWS)[mine]), labels[mine])


def values(net: nn.Module, mine: slice) -> dict[str, Callable[[], Tensor]]:
    """Every loss of the net's outputs, by name."""

    def of(case: Case) -> Tensor:
        given = part(case, mine)
        return case(*(net(x) if i in case.learning else x for i, x in enumerate(given)))

    both = [rows(key, n=RANKS * ROWS)[mine] for key in "ab"]
    return {
        **{name: lambda case=case: of(case) for name, case in CASES.items()},
        "correlation": lambda: correlation(net(both[0]), net(both[1])),
        "all anchors on one rank": lambda: lonely(net, mine),
    }


def measure(mine: slice) -> dict[str, Tensor]:
    """Value and gradients of every loss, averaged over ranks as DDP does, and the rest."""
    net, found = Net(), {}
    for name, value in values(net, mine).items():
        net.zero_grad()
        loss = value()
        loss.backward()
        found[f"{name}.value"] = mean(loss.detach()).reshape(1)
        for key, p in net.named_parameters():
            assert p.grad is not None
            found[f"{name}.{key}"] = mean(p.grad)
    a, b = (rows(key, n=RANKS * ROWS)[mine] for key in "ab")
    found["gathered"] = gather(a)
    found["gathered.transposed"] = gather(a.T.contiguous().T)
    found["mean"], found["total"], found["largest"] = mean(a.T), total(a.T), largest(a.T)
    found["assigned"] = gather(sinkhorn(a.tanh()))
    found["center"] = update_center(rows("center", n=1)[0], [a, b], 0.7)
    return found


def contiguous_only(collective: Callable[..., None]) -> Callable[..., None]:
    """A collective of gloo that is as strict as NCCL's."""

    def call(first: Tensor | list[Tensor], *rest: Tensor | dist.ReduceOp) -> None:
        tensors = [*(first if isinstance(first, list) else [first]), *rest]
        assert all(x.is_contiguous() for x in tensors if isinstance(x, Tensor))
        collective(first, *rest)

    return call


def one_of_two(rank: int, folder: str) -> None:
    place = f"file://{folder}/meeting"
    dist.all_reduce = contiguous_only(dist.all_reduce)
    dist.all_gather = contiguous_only(dist.all_gather)
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=RANKS)
    assert world() == (rank, RANKS)
    mine = slice(rank * ROWS, (rank + 1) * ROWS)
    found = measure(mine)
    # Each rank weighs its own copy of what was gathered, so a gradient must come from both.
    x = rows("a", n=RANKS * ROWS)[mine].clone().requires_grad_()
    (gather(x) * (rank + 1) * rows("weight", n=RANKS * ROWS)).sum().backward()
    assert x.grad is not None
    found["gather.grad"] = x.grad
    assert not largest(x).requires_grad
    save_file({k: v.detach().contiguous() for k, v in found.items()}, f"{folder}/{rank}")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[str, Tensor]]:
    """What each of two ranks found."""
    folder: Path = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        spawn(one_of_two, (str(folder),), nprocs=RANKS)
    return [load_file(folder / str(rank)) for rank in range(RANKS)]


@pytest.fixture(scope="module")
def whole() -> dict[str, Tensor]:
    """What one process found with the whole batch."""
    return measure(WHOLE)


@pytest.mark.parametrize("name", [*CASES, "correlation", "all anchors on one rank"])
def test_two_ranks_give_the_gradient_of_one_with_the_whole_batch(ranks, whole, name):
    for key in ("value", "layer.weight", "layer.bias"):
        expected = whole[f"{name}.{key}"].detach()
        assert expected.abs().max() > 1e-4 or (key == "layer.bias" and name in SHIFTLESS)
        for found in ranks:
            torch.testing.assert_close(found[f"{name}.{key}"], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["assigned", "center"])
def test_two_ranks_share_the_statistics_of_the_whole_batch(ranks, whole, name):
    for found in ranks:
        torch.testing.assert_close(found[name], whole[name], rtol=1e-12, atol=1e-14)


def test_collectives_of_two_ranks(ranks):
    a, weight = rows("a", n=RANKS * ROWS), 3 * rows("weight", n=RANKS * ROWS)
    for rank, found in enumerate(ranks):
        assert torch.equal(found["gathered"], a)
        assert torch.equal(found["gathered.transposed"], a)
        torch.testing.assert_close(found["mean"], (a[:ROWS] + a[ROWS:]).T / 2)
        torch.testing.assert_close(found["total"], (a[:ROWS] + a[ROWS:]).T)
        assert torch.equal(found["largest"], torch.maximum(a[:ROWS], a[ROWS:]).T)
        torch.testing.assert_close(found["gather.grad"], weight[rank * ROWS :][:ROWS])


def test_collectives_are_the_identity_in_one_process():
    x = rows("x").requires_grad_()
    assert world() == (0, 1)
    assert gather(x) is x
    assert mean(x) is x
    assert total(x) is x
    assert torch.equal(largest(x), x)
    assert not largest(x).requires_grad
