"""Teachers: momentum (EMA) copies of modules, and the schedule of their momentum."""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def frozen_copy(module: nn.Module) -> nn.Module:
    """A copy of `module` that starts equal and never receives gradients."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def follow(teacher: nn.Module, online: Sequence[nn.Module], momentum: Tensor) -> None:
    """teacher <- momentum * teacher + (1 - momentum) * online, over parameters, in one sweep.

    Args:
        teacher: A frozen copy of the modules in `online`, in their order.
        online: Modules that together have the teacher's parameters.
        momentum: float [] on the parameters' device, in [0, 1].

    Batch-norm statistics are left alone: the teacher gathers its own.
    """
    old: list[Tensor] = [*teacher.parameters()]
    new: list[Tensor] = [p for module in online for p in module.parameters()]
    if len(old) != len(new):
        raise ValueError(f"the teacher has {len(old)} parameters, its source {len(new)}")
    gap = torch._foreach_sub(new, old)
    torch._foreach_mul_(gap, 1 - momentum)
    torch._foreach_add_(old, gap)


def cosine(start: float, end: float, fraction: Tensor) -> Tensor:
    """Half a cosine from `start` (fraction 0) to `end` (fraction 1); float []."""
    return end + (start - end) * (1 + torch.cos(math.pi * fraction)) / 2
