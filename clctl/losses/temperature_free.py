"""Contrastive losses without a temperature.

Source: Kim and Kim 2025, "Temperature-Free Loss Function for Contrastive Learning",
arXiv:2501.17683, Sec. 3.
Differs: the cosine is clamped, for the logit of equal rows is infinite.
"""

from torch import Tensor
from torch.nn import functional as F

from clctl.losses._rows import check_rows, dots_with_all, pick_own, unit
from clctl.losses._views import similarities, without

_EDGE = 1 - 1e-6


def temperature_free_info_nce(a: Tensor, b: Tensor) -> Tensor:
    """`info_nce` of each row of a among all rows of b, with logits that need no temperature.

        l_i = -log( exp(g_ii) / sum_k exp(g_ik) ),   g = 2 artanh(cos) = log( (1 + cos) / (1 - cos) )

    Args:
        a, b: float [N, D], any norm; row i of both is sample i. The cosine is clamped to
            1 - 1e-6 on both sides, beyond which it has no gradient.
            fp16 and bf16 are computed in fp32, under autocast too.

    Returns:
        Scalar, mean over rows, >= 0; log N where all similarities are equal. Over several ranks
        the rows of b are those of the whole batch.

    Raises:
        ValueError: If the shapes differ or are not [N, D].
    """
    check_rows(a=a, b=b)
    return pick_own(_logits(dots_with_all(*unit(a, b))))


def temperature_free_nt_xent(a: Tensor, b: Tensor) -> Tensor:
    """`nt_xent` with the logits of `temperature_free_info_nce`: every row among all other rows.

    Args:
        a, b: Projections of the two views, as for `temperature_free_info_nce`.

    Returns:
        Scalar, mean over the 2N anchors, >= 0; log(2N - 1) where all similarities are equal.
        Over several ranks the negatives are those of the whole batch.

    Raises:
        ValueError: If the shapes differ or are not [N, D].
    """
    check_rows(a=a, b=b)
    cosines, itself, partner = similarities(a, b)
    return F.cross_entropy(without(_logits(cosines), itself), partner)


def _logits(cosines: Tensor) -> Tensor:
    return 2 * cosines.clamp(-_EDGE, _EDGE).atanh()
