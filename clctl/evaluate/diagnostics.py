"""Readings of collapse and of geometry that need no labels. All are computed in float64."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def rank_me(z: Tensor) -> float:
    """Effective rank: exp of the entropy of the normalised singular values of z [N, D].

    Returns a number from 1 (all features point one way) to min(N, D).
    Source: Garrido et al. 2023, "RankMe", arXiv:2210.02885, Eq. 1-2 (ε 1e-7, uncentred).
    """
    return _effective_rank(torch.linalg.svdvals(z.double()), 1e-7)


def feature_std(z: Tensor) -> float:
    """Mean over D of the unbiased standard deviation of the unit rows of z [N, D].

    1 / sqrt(D) where features are isotropic, 0 where collapsed.
    """
    return float(F.normalize(z.double(), dim=1).std(dim=0).mean())


def feature_spread(z: Tensor) -> float:
    """`feature_std` times sqrt(D): 1 where the rows of z [N, D] fill the sphere, 0 collapsed."""
    return feature_std(z) * z.shape[1] ** 0.5


def alignment(a: Tensor, b: Tensor) -> float:
    """Mean squared distance of the rows of two views, [N, D] both, which the caller normalises.

    Returns a number >= 0, at most 4 for unit rows: 0 where the views agree.
    Source: Wang and Isola 2020, "Understanding Contrastive Representation Learning through
    Alignment and Uniformity on the Hypersphere", arXiv:2005.10242, Sec. 4.1 (α 2).

    Raises:
        ValueError: If the shapes differ, or are not [N, D] with a row.
    """
    _check(a, rows=1)
    if a.shape != b.shape:
        raise ValueError(f"views must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    return float((a.double() - b.double()).square().sum(dim=1).mean())


def uniformity(u: Tensor) -> float:
    """Log of the mean of exp(-2 d²) over all pairs of rows of u [N, D], which the caller normalises.

    Returns a number <= 0, at least -8 for unit rows: 0 where all rows are one. N² / 2 distances
    are held at once.
    Source: Wang and Isola 2020, arXiv:2005.10242, Sec. 4.1 (t 2, pairs of different rows).

    Raises:
        ValueError: If the shape is not [N, D] with 2 rows.
    """
    _check(u, rows=2)
    exponents = -2 * torch.pdist(u.double()).square()
    return float(exponents.logsumexp(dim=0)) - math.log(len(exponents))


def covariance_spectrum(z: Tensor) -> Tensor:
    """The D eigenvalues of the covariance (centred, over N) of z [N, D], largest first: float64 [D].

    Source: Jing et al. 2022, "Understanding Dimensional Collapse in Contrastive Self-supervised
    Learning", arXiv:2110.09348, Sec. 3.

    Raises:
        ValueError: If the shape is not [N, D] with a row.
    """
    _check(z, rows=1)
    z = z.double()
    # Singular values, for the small eigenvalues of a product drown in its rounding.
    values = torch.linalg.svdvals(z - z.mean(dim=0)).square() / len(z)
    return F.pad(values, (0, z.shape[1] - len(values)))


def mutual_information_bound(loss: float, candidates: int) -> float:
    """Lower bound in nats on the mutual information of the two sides of an InfoNCE loss.

    Args:
        loss: Mean cross-entropy of choosing the positive, in nats.
        candidates: How many there are to choose from, the positive included.

    Returns:
        log(candidates) - loss, at most log(candidates).
        Source: van den Oord et al. 2018, arXiv:1807.03748, Sec. 2.3.

    Raises:
        ValueError: If there is no candidate.
    """
    if candidates < 1:
        raise ValueError(f"candidates must be 1 or more, got {candidates}")
    return math.log(candidates) - loss


def lidar(x: Tensor, delta: float = 1e-4) -> float:
    """Effective rank of what tells objects apart beyond what tells views of one object apart.

        exp of the entropy of p = λ / |λ|₁ + 1e-8,   λ eigenvalues of W^(-1/2) B W^(-1/2)
        B = 1/(n - 1) sum_i (m_i - m)(m_i - m)ᵀ
        W = 1/(n (q - 1)) sum_iv (x_iv - m_i)(x_iv - m_i)ᵀ + δI

    Args:
        x: n objects in q views each, float [n, q, D]; m_i is the mean of object i, m that of all.
        delta: δ > 0, in the units of x squared.

    Returns:
        A number from 1 to min(n - 1, D), and 1 where no object differs from another.
        Source: Thilak et al. 2023, "LiDAR", arXiv:2312.04000.

    Raises:
        ValueError: If the shape is not [n, q, D] with 2 objects and 2 views, or δ is not above 0.
    """
    if x.dim() != 3 or x.shape[0] < 2 or x.shape[1] < 2 or not x.shape[2]:
        raise ValueError(f"x must be [n >= 2, q >= 2, D], got {tuple(x.shape)}")
    if not delta > 0:
        raise ValueError(f"delta must be above 0, got {delta}")
    x, (n, q, width) = x.double(), x.shape
    centers = x.mean(dim=1)
    apart = centers - centers.mean(dim=0)
    around = (x - centers[:, None]).flatten(0, 1)
    within = around.T @ around / (n * (q - 1)) + delta * torch.eye(width).to(x)
    values, axes = torch.linalg.eigh(within)
    # Singular values of what B is the square of: eigenvalues of the product could be below 0.
    white = apart @ axes / values.clamp_min(delta).sqrt()
    spread = torch.linalg.svdvals(white).square() / (n - 1)
    return _effective_rank(F.pad(spread, (0, width - len(spread))), 1e-8)


def _effective_rank(values: Tensor, epsilon: float) -> float:
    share = values / values.sum().clamp_min(1e-300) + epsilon
    return float(torch.exp(-(share * share.log()).sum()))


def _check(z: Tensor, rows: int) -> None:
    if z.dim() != 2 or len(z) < rows or not z.shape[1]:
        raise ValueError(f"features must be [N >= {rows}, D], got {tuple(z.shape)}")
