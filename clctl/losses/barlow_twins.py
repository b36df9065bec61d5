"""The redundancy-reduction loss of Barlow Twins.

Source: Zbontar et al. 2021, "Barlow Twins", arXiv:2103.03230, Eq. 1 and 2.
"""

import torch
from torch import Tensor

from clctl.distributed import mean
from clctl.losses._columns import check_batch, off_diagonal, products
from clctl.losses._rows import check_rows, wide


def barlow_twins(a: Tensor, b: Tensor, redundancy: float = 0.0051) -> Tensor:
    """How far the cross-correlation of the two views' columns is from the identity.

        L = sum_i (C_ii - 1)^2 + r sum_{i != j} C_ij^2,   C = A^T B / N
        A, B: columns less their mean, over sqrt(biased variance + 1e-5)

    Args:
        a, b: Projections of the two views, float [N, D]; row i of both is sample i.
            fp16 and bf16 are computed in fp32, under autocast too.
        redundancy: r, the weight of what is off the diagonal.

    Returns:
        Scalar >= 0; D where all rows are equal. Over several ranks the statistics, and the value,
        are those of the whole batch.

    Raises:
        ValueError: If the shapes differ or are not [N, D], or all ranks together have one row.
    """
    check_rows(a=a, b=b)
    check_batch(a)
    a, b = (_standardised(x) for x in wide(a, b))
    c = mean(products(a, b) / len(a))
    on = (c.diagonal() - 1).square().sum()
    return on + redundancy * off_diagonal(c).square().sum()


def _standardised(x: Tensor) -> Tensor:
    x = x - mean(x.mean(dim=0))
    return x * torch.rsqrt(mean(x.square().mean(dim=0)) + 1e-5)
