"""Views of several sizes through one network."""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor, nn


def by_size(module: nn.Module, views: Sequence[Tensor]) -> list[Tensor]:
    """`module` of each view; views of one size that follow each other go in one pass.

    So batch norm sees all crops of one size together, as in the authors' code of SwAV and DINO.

    Args:
        views: float [B, C, h, w] each.
    """
    found: list[Tensor] = []
    for _, alike in groupby(views, key=lambda view: view.shape[-2:]):
        crops = list(alike)
        found += module(torch.cat(crops)).chunk(len(crops))
    return found
