"""Two views of a batch compared with each other: the core of NT-Xent and the losses made of it."""

import torch
from torch import Tensor

from clctl.distributed import gather, world
from clctl.losses._rows import dots, places, unit


def similarities(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines of this rank's anchors, both views, with both views of all ranks.

    Args:
        a, b: The two views, float [N, D], any norm; row i of both is sample i.

    Returns:
        Cosines [2N, 2M] with M = ranks * N, and the columns where each anchor itself and its
        partner stand, both [2N].
    """
    a, b = unit(a, b)
    mine, half = places(a), world()[1] * len(a)
    cosines = dots(torch.cat([a, b]), torch.cat([gather(a), gather(b)]))
    itself, partner = torch.cat([mine, mine + half]), torch.cat([mine + half, mine])
    return cosines, itself, partner


def without(logits: Tensor, columns: Tensor) -> Tensor:
    """Logits that leave one column of each row out of every softmax over it."""
    # Out of place, for autograd keeps the product.
    return logits.scatter(1, columns[:, None], float("-inf"))
