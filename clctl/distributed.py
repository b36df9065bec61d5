"""The few collectives that losses and methods need; each is the identity in a single process.

DDP averages parameter gradients over ranks, so a rank's loss must be the mean over its own rows
(`gather`) or one value equal on all ranks (`mean`, `total`). The backwards below are then exact:
two ranks of B rows give the gradient of one rank of 2B.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world() -> tuple[int, int]:
    """(rank, number of ranks); (0, 1) outside a process group."""
    live = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if live else (0, 1)


def gather(x: Tensor) -> Tensor:
    """Rows of every rank in rank order, with gradient: [B, ...] -> [ranks * B, ...].

    B must be equal on all ranks.
    """
    return x if world()[1] == 1 else _Gather.apply(x)  # type: ignore[no-any-return]


def mean(x: Tensor) -> Tensor:
    """Elementwise mean over ranks, with gradient."""
    return x if world()[1] == 1 else total(x) / world()[1]


def total(x: Tensor) -> Tensor:
    """Elementwise sum over ranks, with gradient."""
    return x if world()[1] == 1 else _Sum.apply(x)  # type: ignore[no-any-return]


def largest(x: Tensor) -> Tensor:
    """Elementwise maximum over ranks, without gradient."""
    if world()[1] == 1:
        return x.detach()
    x = _copy(x.detach())
    dist.all_reduce(x, dist.ReduceOp.MAX)
    return x


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(world()[1])]
        dist.all_gather(parts, x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = _copy(grads[0])
        dist.all_reduce(grad)
        rank, size = world()
        return grad.chunk(size)[rank]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = _copy(x)
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = _copy(grads[0])
        dist.all_reduce(grad)
        return grad


def _copy(x: Tensor) -> Tensor:
    # NCCL takes no other memory order, and a gradient of a matrix product often is transposed.
    return x.clone(memory_format=torch.contiguous_format)
