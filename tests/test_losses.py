"""Losses against loops in float64, closed forms, and two ranks against one."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from clctl.distributed import gather, mean, world
from clctl.losses import byol, nt_xent
from clctl.rng import generator, seeded

RANKS, ROWS, WIDTH = 2, 5, 4


def rows(*key: int | str, n: int = 6, d: int = WIDTH, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, d, generator=generator("losses", *key), dtype=torch.float64).to(dtype)


def cosine(x: list[float], y: list[float]) -> float:
    dot = sum(p * q for p, q in zip(x, y, strict=True))
    return dot / math.sqrt(sum(p * p for p in x)) / math.sqrt(sum(q * q for q in y))


def nt_xent_oracle(a: Tensor, b: Tensor, temperature: float) -> float:
    everyone, n, total = [*a.tolist(), *b.tolist()], len(a), 0.0
    for i, anchor in enumerate(everyone):
        scores = {k: cosine(anchor, z) / temperature for k, z in enumerate(everyone) if k != i}
        top = max(scores.values())
        spread = top + math.log(sum(math.exp(s - top) for s in scores.values()))
        total += spread - scores[(i + n) % (2 * n)]
    return total / (2 * n)


def byol_oracle(prediction: Tensor, target: Tensor) -> float:
    pairs = list(zip(prediction.tolist(), target.tolist(), strict=True))
    return sum(2 - 2 * cosine(p, t) for p, t in pairs) / len(pairs)


@pytest.mark.parametrize("temperature", [0.01, 0.1, 0.5, 3.0])
@pytest.mark.parametrize("n", [1, 2, 6])
def test_nt_xent_equals_explicit_loops(n, temperature):
    a, b = rows("a", n=n), rows("b", n=n)
    expected = nt_xent_oracle(a, b, temperature)
    assert nt_xent(a, b, temperature).item() == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_byol_equals_explicit_loops():
    a, b = rows("a"), rows("b")
    assert byol(a, b).item() == pytest.approx(byol_oracle(a, b), rel=1e-12)


@pytest.mark.parametrize("temperature", [0.01, 0.5])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_nt_xent_of_equal_rows_is_the_log_of_the_others(n, temperature):
    same = rows("one", n=1).expand(n, WIDTH)
    expected = math.log(2 * n - 1)
    assert nt_xent(same, 3 * same, temperature).item() == pytest.approx(expected, abs=1e-9)


def test_nt_xent_of_orthogonal_rows_without_partners():
    # Eight directions that are all orthogonal: a partner is no nearer than any other row.
    basis = torch.eye(8, dtype=torch.float64)
    assert nt_xent(basis[:4], basis[4:], 0.1).item() == pytest.approx(math.log(7), abs=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent_of_identical_pairs_that_are_orthogonal(temperature):
    n, basis = 5, torch.eye(5, dtype=torch.float64)
    expected = math.log1p((2 * n - 2) * math.exp(-1 / temperature))
    assert nt_xent(basis, basis, temperature).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("factor", "expected"), [(3.0, 0.0), (-0.5, 4.0)])
def test_byol_of_parallel_and_opposite_pairs(factor, expected):
    x = rows("x")
    assert byol(x, factor * x).item() == pytest.approx(expected, abs=1e-12)


def test_byol_of_orthogonal_pairs_is_two():
    basis = torch.eye(6, dtype=torch.float64)
    assert byol(basis[:3], basis[3:]).item() == pytest.approx(2.0, abs=1e-12)


@pytest.mark.parametrize("loss", [nt_xent, byol])
def test_invariances(loss):
    a, b = rows("a"), rows("b")
    value = loss(a, b).item()
    sizes = torch.tensor([1e-3, 1.0, 7.0, 0.5, 100.0, 3.0], dtype=torch.float64)[:, None]
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    turn = torch.linalg.qr(rows("turn", n=WIDTH)).Q
    for x, y in ((sizes * a, b / sizes), (a[order], b[order]), (b, a), (a @ turn, b @ turn)):
        assert loss(x, y).item() == pytest.approx(value, rel=1e-12)
    assert abs(loss(a[order], b).item() - value) > 1e-3


def test_gradients_of_nt_xent_equal_finite_differences():
    a, b = rows("a", n=4).requires_grad_(), rows("b", n=4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: nt_xent(x, y, 0.2), (a, b))


def test_gradients_of_byol_equal_finite_differences_and_none_reach_the_target():
    a, b = rows("a").requires_grad_(), rows("b").requires_grad_()
    assert torch.autograd.gradcheck(lambda x: byol(x, b), (a,))
    byol(a, b).backward()
    assert a.grad is not None
    assert b.grad is None


@pytest.mark.parametrize("temperature", [0.01, 0.5])
def test_extreme_rows_leave_finite_gradients(temperature):
    zero, same = torch.zeros(3, WIDTH), torch.ones(3, WIDTH)
    for x, y in ((zero, zero), (zero, same), (same, same), (1e18 * same, 1e-18 * same)):
        for loss, limit in ((lambda a, b: nt_xent(a, b, temperature), math.log(5)), (byol, 2.0)):
            a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
            value = loss(a, b)
            value.backward()
            assert a.grad is not None
            assert a.grad.isfinite().all()
            if x is zero and y is zero:  # all similarities are 0
                assert value.item() == pytest.approx(limit, abs=1e-6)


def test_one_sample_has_no_negatives_so_nothing_to_learn():
    a, b = rows("a", n=1).requires_grad_(), rows("b", n=1).requires_grad_()
    loss = nt_xent(a, b, 0.01)
    loss.backward()
    assert loss.item() == 0
    assert a.grad is not None
    assert torch.equal(a.grad, torch.zeros_like(a))


@pytest.mark.parametrize("loss", [nt_xent, byol])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss, dtype):
    a, b = rows("a", dtype=dtype), rows("b", dtype=dtype)
    found = loss(a, b)
    assert found.dtype == torch.float32
    assert torch.equal(found, loss(a.float(), b.float()))


@pytest.mark.parametrize("loss", [nt_xent, byol])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_does_not_reach_the_arithmetic(loss, dtype):
    a, b = rows("a", dtype=dtype).requires_grad_(), rows("b", dtype=dtype).requires_grad_()
    plain = loss(a, b)
    expected = torch.autograd.grad(plain, a)[0]
    with torch.autocast("cpu", torch.bfloat16):
        cast = loss(a, b)
    assert cast.dtype == torch.float32
    assert torch.equal(cast, plain)
    assert torch.equal(torch.autograd.grad(cast, a)[0], expected)


@pytest.mark.parametrize("loss", [nt_xent, byol])
@pytest.mark.parametrize("shapes", [((4, 3), (5, 3)), ((4, 3), (4, 2)), ((4,), (4,))])
def test_shapes_that_do_not_match_are_refused(loss, shapes):
    a, b = (torch.ones(shape) for shape in shapes)
    with pytest.raises(ValueError, match=r"must both be \[N, D\], got \(4,"):
        loss(a, b)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_temperatures_not_above_zero_are_refused(temperature):
    with pytest.raises(ValueError, match="above 0"):
        nt_xent(rows("a"), rows("b"), temperature)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with seeded("losses", "net"):
            self.layer = nn.Linear(WIDTH, 3, dtype=torch.float64)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(a), self.layer(b)


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """A loss of batch statistics: how far the cross-correlation is from the identity."""
    a, b = (x - mean(x.mean(dim=0)) for x in (a, b))
    return (mean(a.T @ b / len(a)) - torch.eye(3, dtype=a.dtype)).square().sum()


LOSSES = {"nt_xent": lambda a, b: nt_xent(a, b, 0.1), "byol": byol, "correlation": correlation}


def measure(net: nn.Module, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Value and gradients of every loss, averaged over ranks as DDP does, and the collectives."""
    found = {}
    for name, loss in LOSSES.items():
        net.zero_grad()
        value = loss(*net(a, b))
        value.backward()
        found[f"{name}.value"] = value.detach().reshape(1)
        for key, p in net.named_parameters():
            assert p.grad is not None
            found[f"{name}.{key}"] = p.grad.clone()
            if world()[1] > 1:
                dist.all_reduce(found[f"{name}.{key}"])
                found[f"{name}.{key}"] /= world()[1]
    found["gathered"] = gather(a)
    found["gathered.transposed"] = gather(a.T.contiguous().T)
    found["mean"] = mean(a.T)
    return found


def contiguous_only(collective: Callable[..., None]) -> Callable[..., None]:
    """A collective of gloo that is as strict as NCCL's."""

    def call(*tensors: Tensor | list[Tensor]) -> None:
        for each in tensors:
            assert all(x.is_contiguous() for x in (each if isinstance(each, list) else [each]))
        collective(*tensors)

    return call


def one_of_two(rank: int, folder: str) -> None:
    place = f"file://{folder}/meeting"
    dist.all_reduce = contiguous_only(dist.all_reduce)
    dist.all_gather = contiguous_only(dist.all_gather)
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=RANKS)
    assert world() == (rank, RANKS)
    mine = slice(rank * ROWS, (rank + 1) * ROWS)
    a, b = (rows(key, n=RANKS * ROWS)[mine] for key in "ab")
    found = measure(Net(), a, b)
    # Each rank weighs its own copy of what was gathered, so a gradient must come from both.
    x = a.clone().requires_grad_()
    (gather(x) * (rank + 1) * rows("weight", n=RANKS * ROWS)).sum().backward()
    assert x.grad is not None
    found["gather.grad"] = x.grad
    save_file({k: v.detach().contiguous() for k, v in found.items()}, f"{folder}/{rank}")
    dist.destroy_process_group()


def test_two_ranks_give_the_gradient_of_one_with_the_whole_batch(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    spawn(one_of_two, (str(tmp_path),), nprocs=RANKS)
    first, second = (load_file(tmp_path / str(rank)) for rank in range(RANKS))
    a, b = (rows(key, n=RANKS * ROWS) for key in "ab")
    whole = measure(Net(), a, b)
    for name in LOSSES:
        for key in ("layer.weight", "layer.bias"):
            expected = whole[f"{name}.{key}"]
            # A bias that goes with the mean has no gradient; all others must be there.
            assert expected.abs().max() > 1e-3 or (name, key) == ("correlation", "layer.bias")
            for part in (first, second):
                torch.testing.assert_close(part[f"{name}.{key}"], expected, rtol=1e-9, atol=1e-13)
        both = (first[f"{name}.value"] + second[f"{name}.value"]) / 2
        torch.testing.assert_close(both, whole[f"{name}.value"], rtol=1e-12, atol=0)
    middle = (a[:ROWS] + a[ROWS:]).T / 2
    weight = 3 * rows("weight", n=RANKS * ROWS)
    for rank, part in enumerate((first, second)):
        assert torch.equal(part["gathered"], a)
        assert torch.equal(part["gathered.transposed"], a)
        torch.testing.assert_close(part["mean"], middle)
        torch.testing.assert_close(part["gather.grad"], weight[rank * ROWS :][:ROWS])


def test_collectives_are_the_identity_in_one_process():
    x = rows("x")
    assert world() == (0, 1)
    assert gather(x) is x
    assert mean(x) is x
