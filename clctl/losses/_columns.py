"""What the losses of batch statistics share."""

import torch
from torch import Tensor

from clctl.distributed import world


def check_batch(x: Tensor) -> None:
    """Refuse a batch without a variance: one row over all ranks."""
    if len(x) * world()[1] < 2:
        raise ValueError("a variance needs 2 rows over all ranks, got 1")


def products(a: Tensor, b: Tensor) -> Tensor:
    """Products of all columns, a^T b, [N, D] -> [D, D], which autocast does not shorten."""
    with torch.autocast(a.device.type, enabled=False):
        return a.T @ b


def off_diagonal(x: Tensor) -> Tensor:
    """x [D, D] with zeros on its diagonal."""
    return x - torch.diag(x.diagonal())
