"""The few collectives that losses and methods need; each is the identity in a single process.

DDP averages parameter gradients over ranks, so a rank's loss must be the mean over its own rows
(`gather`) or one value equal on all ranks (`mean`, `total`). The backwards below are then exact:
two ranks of B rows give the gradient of one rank of 2B.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def live() -> bool:
    """Whether this process belongs to a process group, be it one of its own."""
    return dist.is_available() and dist.is_initialized()


def world() -> tuple[int, int]:
    """(rank, number of ranks); (0, 1) outside a process group."""
    return (dist.get_rank(), dist.get_world_size()) if live() else (0, 1)


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


def wait() -> None:
    """Wait until every rank is here."""
    if world()[1] > 1:
        dist.barrier()


class Agreement:
    """Numbers that ranks raise apart, as signals come, and act on together.

    What is agreed is the largest of all ranks' numbers of one call before: so it has arrived while
    the step was computed, and no step waits for it.
    """

    def __init__(self) -> None:
        several = world()[1] > 1
        self._group: Any = dist.new_group(backend="gloo") if several else None
        self._last: tuple[Any, Tensor] | None = None

    def __call__(self, *mine: int) -> list[int]:
        """Call on every rank alike, with as many numbers each time, none below 0."""
        if self._group is None:
            return list(mine)
        before, now = self._last, torch.tensor(mine)
        self._last = dist.all_reduce(now, dist.ReduceOp.MAX, self._group, async_op=True), now
        if before is None:
            return [0] * len(mine)
        work, agreed = before
        work.wait()
        return agreed.tolist()

    def close(self) -> None:
        """Wait for what is under way, once the last numbers were given."""
        if self._last is not None:
            self._last[0].wait()
        self._last = None


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
