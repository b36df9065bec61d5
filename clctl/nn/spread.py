"""A gauge of collapse, cheap enough for every step."""

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.no_grad()
def spread(z: Tensor) -> Tensor:
    """Standard deviation of the unit rows of `z` [B, D], mean over D, times sqrt(D); float [].

    1 where the rows fill the sphere evenly, 0 where all point one way.
    Source: Chen & He 2021, "SimSiam", arXiv:2011.10566, Sec. 4.1 (there without the factor).
    """
    unit = F.normalize(z.float(), dim=-1)
    return unit.std(dim=0).mean() * z.shape[-1] ** 0.5
