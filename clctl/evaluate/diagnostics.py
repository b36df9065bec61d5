"""Readings of collapse that need no labels."""

import torch
from torch import Tensor
from torch.nn import functional as F


def rank_me(z: Tensor) -> float:
    """Effective rank: exp of the entropy of the normalised singular values of z [N, D].

    Returns a number from 1 (all features point one way) to min(N, D).
    Source: Garrido et al. 2023, "RankMe", arXiv:2210.02885, Eq. 1-2 (ε 1e-7, uncentred).
    """
    values = torch.linalg.svdvals(z.double())
    share = values / values.sum().clamp_min(1e-300) + 1e-7
    return float(torch.exp(-(share * share.log()).sum()))


def feature_std(z: Tensor) -> float:
    """Mean over D of the unbiased standard deviation of the unit rows of z [N, D].

    1 / sqrt(D) where features are isotropic, 0 where collapsed.
    """
    return float(F.normalize(z.double(), dim=1).std(dim=0).mean())


def feature_spread(z: Tensor) -> float:
    """`feature_std` times sqrt(D): 1 where the rows of z [N, D] fill the sphere, 0 collapsed."""
    return feature_std(z) * z.shape[1] ** 0.5
