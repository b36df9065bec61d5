"""Crops that predict each other's clusters: what SwAV and DINO share."""

from collections.abc import Sequence

import torch
from torch import Tensor


def check_crops(predicted: Sequence[Tensor], target: Sequence[Tensor], names: str) -> None:
    """Refuse crops that are not all [B, K], or that have no pair of different ones."""
    shapes = [tuple(x.shape) for x in (*predicted, *target)]
    if len(set(shapes)) != 1 or len(shapes[0]) != 2 or 0 in shapes[0]:
        raise ValueError(f"{names} must all be [B, K] of one shape, got {shapes}")
    if not 1 <= len(target) <= len(predicted) or len(predicted) < 2:
        got = f"{len(predicted)} and {len(target)}"
        raise ValueError(f"{names} must be of 2 crops or more and of the first of them, got {got}")


def mean_over_pairs(log_p: Sequence[Tensor], q: Sequence[Tensor]) -> Tensor:
    """Cross-entropy -sum_k q_k log p_k, mean over rows and over pairs of different crops.

    Args:
        log_p: Log-probabilities of each crop, [B, K].
        q: Probabilities of the first crops, [B, K].
    """
    pairs = [
        -(q_i * log_p_j).sum(dim=1).mean()
        for i, q_i in enumerate(q)
        for j, log_p_j in enumerate(log_p)
        if i != j
    ]
    return torch.stack(pairs).mean()
