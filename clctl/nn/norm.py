"""Batch norm over the global batch, and over groups of it that any number of ranks can hold.

Source: Ioffe & Szegedy 2015, "Batch Normalization", arXiv:1502.03167, Alg. 1; the groups are the
"shuffling BN" of He et al. 2020, "MoCo", arXiv:1911.05722, Sec. 3.3.
Differs: MoCo moves the images between processes, so that the statistics of a key's process say
nothing of its query; here the images stay and statistics are summed by group, which one process
does as well as eight. PyTorch's SyncBatchNorm does not run on a processor.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from clctl.distributed import gather, total, world
from clctl.rng import generator


class BatchNorm(_BatchNorm):
    """Batch norm for [B, C] or [B, C, H, W], in training by the statistics of all ranks.

    Parameters, buffers and keys are those of torch's BatchNorm1d and BatchNorm2d, and in a single
    process so is the arithmetic, to the bit. B must be equal on all ranks. Statistics are taken
    in float32 at least; the result has the type of the input.
    """

    grouping: tuple[Tensor, int] | None = None  # groups and their count, inside `grouped`

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or (self.grouping is None and world()[1] == 1):
            return super().forward(input)
        self._check_input_dim(input)
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        if self.grouping is None:
            rows = slice(None)
            average, var, n = _of_all(x)
        else:
            rows, count = self.grouping
            average, var, n = _by_group(x, rows, count)
        self._follow(average.mean(dim=0), (var * n / (n - 1)).mean(dim=0))
        scale = torch.rsqrt(var + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        x = (x - _over(average[rows], x)) * _over(scale[rows], x)
        if self.bias is not None:
            x = x + _over(self.bias[None], x)
        return x.to(input.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in (2, 4):
            raise ValueError(f"expected [B, C] or [B, C, H, W], got {tuple(input.shape)}")

    @torch.no_grad()
    def _follow(self, average: Tensor, var: Tensor) -> None:
        """Move the running statistics towards those of a batch, float [C] each."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(average.to(self.running_mean.dtype), share)
        self.running_var.lerp_(var.to(self.running_var.dtype), share)


def synchronised(module: nn.Module) -> nn.Module:
    """The same module, with every BatchNorm1d and BatchNorm2d in it become a BatchNorm.

    Each stays the object that it was, with its parameters, buffers and hooks.

    Raises:
        ValueError: There are several ranks and a batch norm of another kind, such as a class of
            timm's with an activation inside, whose statistics would stay its rank's.
    """
    for each in module.modules():
        if type(each) in (nn.BatchNorm1d, nn.BatchNorm2d):
            each.__class__ = BatchNorm
        elif isinstance(each, _BatchNorm) and type(each) is not BatchNorm and world()[1] > 1:
            raise ValueError(f"{type(each).__name__} cannot take statistics over ranks")
    return module


@contextmanager
def grouped(module: nn.Module, groups: Tensor, count: int) -> Iterator[None]:
    """Inside the block each row is normalised by the statistics of its group over all ranks.

    Holds for every BatchNorm of `module` in training mode. Running statistics move once a pass,
    towards the mean over groups of mean and unbiased variance. Gradients are right, too.

    Args:
        module: After `synchronised`; every pass inside the block has B rows.
        groups: int64 [B], group of each row of this rank, on the device of the rows.
        count: Number of groups; each must have, over all ranks, two rows or more.

    Raises:
        ValueError: A batch norm of another kind is inside, which would leak between groups.
    """
    norms = [each for each in module.modules() if isinstance(each, BatchNorm)]
    for each in module.modules():
        if isinstance(each, _BatchNorm) and each not in norms:
            raise ValueError(f"{type(each).__name__} takes no groups: use synchronised(module)")
    try:
        for each in norms:
            each.grouping = (groups, count)
        yield
    finally:
        for each in norms:
            each.grouping = None


def assignment(seed: int, step: int, batch: int, count: int, rank: int, ranks: int) -> Tensor:
    """Group of each row of a rank: the global batch in random order, cut into equal groups.

    Args:
        batch: Rows of the global batch; those of a rank lie one after the other in it.

    Returns:
        int64 [batch / ranks], in [0, count).

    Raises:
        ValueError: `batch` is no multiple of both, or has less than two rows for each group.
    """
    if batch % count or batch % ranks or batch < 2 * count:
        raise ValueError(f"cannot cut {batch} rows into {count} groups on {ranks} ranks")
    order = torch.randperm(batch, generator=generator(seed, "shuffle", step))
    groups = torch.empty_like(order)
    groups[order] = torch.arange(batch) // (batch // count)
    return groups.chunk(ranks)[rank]


def _of_all(x: Tensor) -> tuple[Tensor, Tensor, int]:
    """Mean and variance over all ranks, [1, C] each, and the number of values behind them."""
    var, average = torch.var_mean(x, [0, *range(2, x.dim())], correction=0)
    parts = gather(torch.stack([average, var])[None])  # [ranks, 2, C]
    averages, variances = parts.unbind(dim=1)
    # Chan et al. 1979: within the ranks plus between them, without a difference of squares.
    var = variances.mean(dim=0) + averages.var(dim=0, correction=0)
    return averages.mean(dim=0)[None], var[None], len(parts) * x.numel() // x.shape[1]


def _by_group(x: Tensor, groups: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance of each group over all ranks, [G, C], and numbers of values, [G, 1]."""
    if groups.shape != x.shape[:1]:
        raise ValueError(f"got groups of {len(groups)} rows for a batch of {len(x)}")
    members = (groups == torch.arange(count, device=x.device)[:, None]).to(x.dtype)[..., None]
    number = total(members.sum(dim=1))  # rows of a group

    def pooled(values: Tensor) -> Tensor:
        # A masked sum, since index_add_ on CUDA adds in another order each time.
        rows = values[..., None].flatten(2).mean(dim=2)  # [B, C], also without pixels
        return total((members * rows).sum(dim=1)) / number

    average = pooled(x)
    var = pooled((x - _over(average[groups], x)).square())
    return average, var, number * x[0, 0].numel()


def _over(stats: Tensor, x: Tensor) -> Tensor:
    """Statistics [1, C] or [B, C] in a shape that broadcasts over the pixels of `x`."""
    return stats.reshape(*stats.shape, *[1] * (x.dim() - 2))
