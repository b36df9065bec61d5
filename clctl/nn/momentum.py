"""Teachers: momentum (EMA) copies of modules, and the schedule of their momentum."""

import copy
import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth


def frozen_copy(module: nn.Module) -> nn.Module:
    """A copy of `module` that starts equal, drops no paths and never receives gradients."""
    frozen = copy.deepcopy(module).requires_grad_(False)
    for each in frozen.modules():
        if isinstance(each, StochasticDepth):
            each.p = 0.0  # only what is trained is regularised, as in the authors' code of DINO
    return frozen


def teacher_of(**modules: nn.Module) -> nn.Module:
    """A frozen copy of modules that work one after the other, under their own names."""
    return frozen_copy(nn.Sequential(OrderedDict(modules)))


@torch.no_grad()
def follow(teacher: nn.Module, online: Sequence[nn.Module], momentum: Tensor | float) -> None:
    """teacher <- momentum * teacher + (1 - momentum) * online, over parameters, in one sweep.

    Args:
        teacher: A frozen copy of the modules in `online`, in their order.
        online: Modules that together have the teacher's parameters.
        momentum: In [0, 1]; where it varies by step, float [] on the parameters' device.

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
