"""Parts of labelled data by counted draws: held out for choices, or fewer labels on purpose."""

import torch
from torch import Tensor

from clctl.rng import generator


def balanced(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Rows of a class-balanced subset: int64, rising.

    Every class gives equally many, at least one, or all it has; a larger fraction with the same
    seed contains the smaller one. All rows where fraction is 1.

    Args:
        labels: int64 [N] from 0.
        fraction: Share of N, in (0, 1].

    Raises:
        ValueError: If fraction is out of range.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}")
    if fraction == 1:
        return torch.arange(len(labels))
    present = labels.unique()
    each = max(1, round(fraction * len(labels) / len(present)))
    key = generator(seed, "subset")
    order = torch.randperm(len(labels), generator=key)
    kept = [order[labels[order] == label][:each] for label in present]
    return torch.cat(kept).sort().values


def held_out(labels: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of nine tenths and one tenth of labels int64 [N], by class; both rising.

    Each class of two or more gives a tenth, at least one; an only sample is never held out.

    Raises:
        ValueError: If no class has two samples.
    """
    order = torch.randperm(len(labels), generator=generator(seed, "held out"))
    held = []
    for label in labels.unique():
        rows = order[labels[order] == label]
        if len(rows) >= 2:
            held.append(rows[: max(1, round(len(rows) / 10))])
    if not held:
        raise ValueError("no class has two training samples, one to fit and one to hold out")
    out = torch.cat(held).sort().values
    left = torch.ones(len(labels), dtype=torch.bool)
    left[out] = False
    return left.nonzero()[:, 0], out
