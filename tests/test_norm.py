"""Batch norm over ranks and groups, against torch's own on the whole batch or on each group."""

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from clctl.distributed import world
from clctl.nn.norm import BatchNorm, assignment, grouped, synchronised
from clctl.rng import generator, seeded

RANKS, ROWS, GROUPS = 2, 6, 3
SHAPES = {1: (12, 4), 2: (12, 4, 3, 5)}


def noise(*key: int | str, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    x = torch.randn(shape, generator=generator("norm", *key), dtype=torch.float64)
    return (3 * x + 5).to(dtype)


def pair(dim: int, **settings) -> tuple[nn.Module, nn.Module]:
    """torch's batch norm with weights of its own, and ours."""
    theirs = (nn.BatchNorm1d, nn.BatchNorm2d)[dim - 1](4, dtype=torch.float64, **settings)
    with seeded("norm", dim):
        for p in theirs.parameters():
            nn.init.normal_(p, 1.0, 0.3)
    return theirs, synchronised(copy.deepcopy(theirs))


def same(ours: nn.Module, theirs: nn.Module) -> None:
    found, expected = ours.state_dict(), theirs.state_dict()
    assert list(found) == list(expected)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-12, atol=0, msg=key)


VARIANTS = [{}, {"affine": False}, {"momentum": None}, {"track_running_stats": False}]


@pytest.mark.parametrize("settings", VARIANTS)
@pytest.mark.parametrize("dim", [1, 2])
def test_one_process_is_torchs_own_to_the_bit(dim, settings):
    theirs, ours = pair(dim, **settings)
    assert type(ours) is BatchNorm
    for step, training in enumerate((True, True, False)):
        ours.train(training)
        theirs.train(training)
        x, y = (noise(step, shape=SHAPES[dim]).requires_grad_() for _ in range(2))
        found, expected = ours(x), theirs(y)
        assert torch.equal(found, expected)
        for out in (found, expected):
            (out * noise("weight", shape=out.shape)).sum().backward()
        assert x.grad is not None
        assert y.grad is not None
        assert torch.equal(x.grad, y.grad)
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value)


@pytest.mark.parametrize("settings", VARIANTS)
@pytest.mark.parametrize("dim", [1, 2])
def test_one_group_is_the_whole_batch(dim, settings):
    theirs, ours = pair(dim, **settings)
    everyone = torch.zeros(12, dtype=torch.int64)
    for step in range(2):
        x, y = (noise(step, shape=SHAPES[dim]).requires_grad_() for _ in range(2))
        with grouped(ours, everyone, 1):
            found = ours(x)
        expected = theirs(y)
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
        for out in (found, expected):
            (out * noise("weight", shape=out.shape)).sum().backward()
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-9, atol=1e-11)
    same(ours, theirs)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dim", [1, 2])
def test_groups_are_normalised_each_for_itself(dim):
    theirs, ours = pair(dim)
    groups = assignment(0, 7, 12, GROUPS, 0, 1)
    x = noise("x", shape=SHAPES[dim]).requires_grad_()
    x.data += 4 * groups.reshape(-1, *[1] * (x.dim() - 1))  # so that the groups differ
    each = [copy.deepcopy(theirs) for _ in range(GROUPS)]
    expected = torch.empty_like(x)
    for g, norm in enumerate(each):
        expected[groups == g] = norm(x[groups == g])
    with grouped(ours, groups, GROUPS):
        found = ours(x)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert (found - theirs(x)).abs().max() > 0.1
    weight = noise("weight", shape=x.shape)
    grads = [torch.autograd.grad((out * weight).sum(), x)[0] for out in (found, expected)]
    torch.testing.assert_close(*grads, rtol=1e-8, atol=1e-10)
    for key in ("running_mean", "running_var"):
        value = torch.stack([norm.state_dict()[key] for norm in each]).mean(dim=0)
        torch.testing.assert_close(ours.state_dict()[key], value, rtol=1e-12, atol=0)
    assert ours.get_buffer("num_batches_tracked").item() == 1


def test_the_end_of_a_block_and_evaluation_know_no_groups():
    theirs, ours = pair(2)
    x = noise("x", shape=SHAPES[2])
    groups = assignment(0, 0, 12, GROUPS, 0, 1)
    with pytest.raises(KeyError), grouped(ours, groups, GROUPS):
        raise KeyError
    assert torch.equal(ours(x), theirs(x))
    ours.eval()
    theirs.eval()
    with grouped(ours, groups, GROUPS):
        assert torch.equal(ours(x), theirs(x))
    ours.train()
    with (
        grouped(ours, groups[:5], GROUPS),
        pytest.raises(ValueError, match="5 rows for a batch of 12"),
    ):
        ours(x)


@pytest.mark.parametrize("shape", [(4,), (2, 4, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected \[B, C\] or \[B, C, H, W\]"):
        pair(1)[1](torch.ones(shape, dtype=torch.float64))


def test_synchronised_keeps_all_that_a_norm_has():
    shared = nn.BatchNorm1d(3, eps=0.1, momentum=0.3, affine=False).eval()
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Sequential(shared, shared))
    net.append(nn.BatchNorm3d(3))
    before = [id(t) for t in (*net.parameters(), *net.buffers())]
    keys = list(net.state_dict())
    assert synchronised(net) is net
    assert [id(t) for t in (*net.parameters(), *net.buffers())] == before
    assert list(net.state_dict()) == keys
    assert [type(m) for m in net] == [nn.Conv2d, BatchNorm, nn.Sequential, nn.BatchNorm3d]
    assert net[2][0] is net[2][1] is shared
    assert type(shared) is BatchNorm
    assert (shared.eps, shared.momentum, shared.affine, shared.training) == (0.1, 0.3, False, False)
    with (
        pytest.raises(ValueError, match="BatchNorm3d takes no groups"),
        grouped(net, torch.zeros(2, dtype=torch.int64), 1),
    ):
        pass
    copied = copy.deepcopy(net)
    assert type(copied[1]) is BatchNorm


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_has_its_statistics_in_float32(dtype):
    ours = synchronised(nn.BatchNorm2d(4))
    exact = copy.deepcopy(ours)
    x = noise("half", shape=(64, 4, 8, 8), dtype=dtype) + 100
    groups = assignment(0, 0, 64, 4, 0, 1)
    with torch.autocast("cpu", torch.bfloat16), grouped(ours, groups, 4):
        found = ours(x)
    with grouped(exact, groups, 4):
        expected = exact(x.float())
    assert found.dtype == dtype
    assert torch.equal(found, expected.to(dtype))
    assert torch.equal(ours.get_buffer("running_var"), exact.get_buffer("running_var"))


def test_a_far_mean_leaves_the_variance_accurate():
    norm = synchronised(nn.BatchNorm1d(4, momentum=1.0))
    x = noise("far", shape=(256, 4), dtype=torch.float32) + 10_000
    with grouped(norm, assignment(0, 0, 256, 2, 0, 1), 2):
        norm(x)
    expected = x.double().var(dim=0).float()  # of all, near that of the halves
    torch.testing.assert_close(norm.get_buffer("running_var"), expected, rtol=0.02, atol=0)


def test_an_assignment_is_a_cut_of_the_global_batch():
    whole = assignment(3, 5, 24, 4, 0, 1)
    assert torch.bincount(whole).tolist() == [6] * 4
    parts = [assignment(3, 5, 24, 4, rank, 3) for rank in range(3)]
    assert torch.equal(torch.cat(parts), whole)
    for other in (assignment(3, 6, 24, 4, 0, 1), assignment(4, 5, 24, 4, 0, 1)):
        assert not torch.equal(other, whole)
    for batch, count, ranks in ((24, 5, 1), (24, 4, 5), (24, 24, 1)):
        with pytest.raises(ValueError, match=f"24 rows into {count} groups on {ranks} ranks"):
            assignment(0, 0, batch, count, 0, ranks)


def net() -> nn.Module:
    with seeded("norm", "net"):
        layers = [nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten()]
        layers += [nn.Linear(5 * 9, 4), nn.BatchNorm1d(4, momentum=0.3)]
        return synchronised(nn.Sequential(*layers).double())


def measure(x: Tensor, weight: Tensor, groups: Tensor | None) -> dict[str, Tensor]:
    """Output, gradients averaged over ranks as DDP does, and statistics after two steps."""
    model, x = net(), x.clone().requires_grad_()
    for _ in range(2):
        model.zero_grad()
        x.grad = None
        if groups is None:
            out = model(x)
        else:
            with grouped(model, groups, GROUPS):
                out = model(x)
        (out * weight).sum(dim=1).mean().backward()
    grads = {f"grad.{key}": p.grad for key, p in model.named_parameters()}
    for grad in grads.values():
        if world()[1] > 1:
            dist.all_reduce(grad)
            grad /= world()[1]
    assert x.grad is not None
    return {
        "out": out.detach(),
        "input": x.grad / world()[1],
        **grads,
        **dict(model.named_buffers()),
    }


def inputs() -> tuple[Tensor, Tensor]:
    x = noise("images", shape=(RANKS * ROWS, 3, 5, 5))
    x[:ROWS] *= 3  # the ranks differ
    return x, noise("weight", shape=(RANKS * ROWS, 4))


def one_of_two(rank: int, folder: str) -> None:
    place = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=RANKS)
    with pytest.raises(ValueError, match="BatchNorm3d cannot take statistics over ranks"):
        synchronised(nn.Sequential(nn.BatchNorm3d(3)))
    x, weight = (t[rank * ROWS :][:ROWS] for t in inputs())
    groups = assignment(0, 2, RANKS * ROWS, GROUPS, rank, RANKS)
    for name, chosen in (("whole", None), ("groups", groups)):
        save_file(measure(x, weight, chosen), f"{folder}/{name}.{rank}")
    dist.destroy_process_group()


def test_two_ranks_compute_what_one_does_with_the_whole_batch(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    spawn(one_of_two, (str(tmp_path),), nprocs=RANKS)
    groups = assignment(0, 2, RANKS * ROWS, GROUPS, 0, 1)
    for name, chosen in (("whole", None), ("groups", groups)):
        expected = measure(*inputs(), chosen)
        first, second = (load_file(tmp_path / f"{name}.{rank}") for rank in range(RANKS))
        assert set(first) == set(expected)
        for key, value in expected.items():
            close = {"rtol": 1e-9, "atol": 1e-12}
            if key in ("out", "input"):
                torch.testing.assert_close(torch.cat([first[key], second[key]]), value, **close)
            else:
                torch.testing.assert_close(first[key], value, **close)
                assert torch.equal(first[key], second[key])
            cancelled = key in ("grad.0.bias", "grad.4.bias")  # taken away by the norm behind
            assert cancelled or value.abs().max() > 1e-3, key


@pytest.mark.skipif(
    not (torch.cuda.is_available() and dist.is_nccl_available()), reason="needs CUDA and NCCL"
)
def test_on_cuda_it_is_torchs_synchronised_norm(tmp_path: Path):
    place = f"file://{tmp_path}/meeting"
    dist.init_process_group("nccl", init_method=place, rank=0, world_size=1)
    try:
        ours = net().float().cuda().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        theirs = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(ours))
        x = inputs()[0].float().cuda().contiguous(memory_format=torch.channels_last)
        with grouped(ours, torch.zeros(len(x), dtype=torch.int64, device="cuda"), 1):
            found = ours(x)
        expected = theirs(x)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        weight = inputs()[1].float().cuda()
        for out in (found, expected):
            (out * weight).sum().backward()
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-3)
        for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    finally:
        dist.destroy_process_group()
