"""Variance-invariance-covariance regularisation.

Source: Bardes, Ponce and LeCun 2022, "VICReg", arXiv:2105.04906, Eq. 1 to 6.
Differs: as in the official code, the invariance term is a mean over columns too, and the
variance term is the mean of both views.
"""

from torch import Tensor

from clctl.distributed import mean, total, world
from clctl.losses._columns import check_batch, off_diagonal, products
from clctl.losses._rows import check_rows, wide


def vicreg(
    a: Tensor,
    b: Tensor,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
) -> Tensor:
    """Equal views whose columns vary and are not correlated.

        L = invariance mean (a - b)^2
          + variance 1/2 sum_{x in a, b} mean_j max(0, 1 - sqrt(var(x_j) + 1e-4))
          + covariance sum_{x in a, b} 1/D sum_{i != j} cov(x)_ij^2

    Args:
        a, b: Projections of the two views, float [N, D]; row i of both is sample i. Variance and
            covariance are unbiased. fp16 and bf16 are computed in fp32, under autocast too.
        invariance, variance, covariance: Weights of the three terms.

    Returns:
        Scalar >= 0; 0.99 `variance` where all rows are equal. Over several ranks the statistics,
        and the value, are those of the whole batch.

    Raises:
        ValueError: If the shapes differ or are not [N, D], or all ranks together have one row.
    """
    check_rows(a=a, b=b)
    check_batch(a)
    a, b = wide(a, b)
    spread = correlation = 0.0
    for x in (a, b):
        x = x - mean(x.mean(dim=0))
        cov = total(products(x, x)) / (len(x) * world()[1] - 1)
        spread += (1 - (cov.diagonal() + 1e-4).sqrt()).clamp_min(0).mean() / 2
        correlation += off_diagonal(cov).square().sum() / x.shape[1]
    equality = mean((a - b).square().mean())
    return invariance * equality + variance * spread + covariance * correlation
