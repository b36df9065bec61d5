"""The contrastive loss of labelled pairs.

Source: Hadsell, Chopra and LeCun 2006, "Dimensionality Reduction by Learning an Invariant
Mapping", CVPR, Eq. 4.
Differs: y = 1 means similar, and there is no factor 1/2.
"""

from torch import Tensor
from torch.nn import functional as F

from clctl.losses._rows import check_labels, check_margin, check_rows, wide


def pairwise_contrastive(a: Tensor, b: Tensor, same: Tensor, margin: float = 1.0) -> Tensor:
    """Pull similar pairs together and push others apart up to a margin, mean over rows.

        l_i = y d^2 + (1 - y) max(0, m - d)^2,   d = |a_i - b_i|

    Args:
        a, b: The two sides of each pair, float [N, D], rows as given.
            fp16 and bf16 are computed in fp32.
        same: y, bool or number [N]: 1 where the pair is similar, 0 where not.
        margin: m >= 0.

    Returns:
        Scalar >= 0. Its gradient is finite, and 0, for a pair that coincides.

    Raises:
        ValueError: If the shapes differ, are not [N, D] and [N], or `margin` is below 0.
    """
    check_rows(a=a, b=b)
    check_labels("same", same, len(a))
    check_margin(margin)
    a, b = wide(a, b)
    y, d = same.to(a.dtype), F.pairwise_distance(a, b, eps=0.0)
    return (y * d.square() + (1 - y) * (margin - d).clamp_min(0).square()).mean()
