"""What the losses share: checks, precision, unit rows, dot products, and rows of other ranks."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from clctl.distributed import gather, total, world


def check_rows(**named: Tensor) -> None:
    """Refuse tensors that are not all [N, D] with one N > 0 and one D; the names are for the text."""
    shapes = [tuple(x.shape) for x in named.values()]
    if len(set(shapes)) > 1 or len(shapes[0]) != 2:
        must = ("must be", "must both be", "must all be")[min(len(named), 3) - 1]
        raise ValueError(f"{_listed(named)} {must} [N, D], got {_listed(shapes)}")
    if 0 in shapes[0]:
        raise ValueError(f"{_listed(named)} must not be empty, got {shapes[0]}")


def check_bank(name: str, bank: Tensor, width: int) -> None:
    """Refuse a bank of rows that is not [K, width] with K > 0."""
    if bank.dim() != 2 or bank.shape[1] != width or not len(bank):
        raise ValueError(f"{name} must be [K, {width}] with K > 0, got {tuple(bank.shape)}")


def check_labels(name: str, labels: Tensor, rows: int) -> None:
    """Refuse labels that are not [rows]."""
    if labels.shape != (rows,):
        raise ValueError(f"{name} must be [{rows}], one per row, got {tuple(labels.shape)}")


def check_temperature(value: float | Tensor, name: str = "temperature") -> None:
    """Refuse a number not above 0, or a tensor with dimensions.

    The value of a tensor is not looked at: that would make the host wait for the device.
    """
    if isinstance(value, Tensor):
        if value.dim():
            raise ValueError(f"{name} must be a number or 0-d, got {tuple(value.shape)}")
    elif not value > 0:
        raise ValueError(f"{name} must be above 0, got {value}")


def check_margin(margin: float) -> None:
    """Refuse a margin below 0."""
    if not margin >= 0:
        raise ValueError(f"margin must not be below 0, got {margin}")


def wide(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All in their widest type, which is fp32 at least."""
    dtype = torch.float32
    for x in tensors:
        dtype = torch.promote_types(dtype, x.dtype)
    return tuple(x.to(dtype) for x in tensors)


def unit(*tensors: Tensor) -> tuple[Tensor, ...]:
    """`wide` with rows of norm 1; a zero row stays zero."""
    return tuple(F.normalize(x, dim=1) for x in wide(*tensors))


def dots(a: Tensor, b: Tensor) -> Tensor:
    """Dot products of all rows, [N, D], [M, D] -> [N, M], which autocast does not shorten."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b.T


def places(x: Tensor) -> Tensor:
    """Where this rank's rows of x stand among those of all ranks, [N]."""
    return torch.arange(len(x), device=x.device) + world()[0] * len(x)


def dots_with_all(a: Tensor, b: Tensor) -> Tensor:
    """Dot products of this rank's rows of a with the rows b of all ranks, [N, ranks * N]."""
    return dots(a, gather(b))


def pick_own(logits: Tensor) -> Tensor:
    """Cross-entropy of choosing its own among all columns for each row of [N, ranks * N]."""
    return F.cross_entropy(logits, places(logits))


def mean_where(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the chosen values over all ranks, equal on all; 0, with a graph, if none is."""
    return total(torch.where(chosen, values, 0).sum()) / total(chosen.sum()).clamp_min(1)


def _listed(names: Iterable[object]) -> str:
    *first, last = map(str, names)
    return f"{', '.join(first)} and {last}" if first else last
