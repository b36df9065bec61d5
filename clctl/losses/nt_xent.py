"""NT-Xent, the loss of SimCLR.

Source: Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual
Representations", arXiv:2002.05709, Eq. 1 and Alg. 1.
"""

from torch import Tensor
from torch.nn import functional as F

from clctl.losses._rows import check_rows, check_temperature
from clctl.losses._views import similarities, without


def nt_xent(a: Tensor, b: Tensor, temperature: float | Tensor = 0.5) -> Tensor:
    """Cross-entropy of each row against its partner among all other rows of both views.

        l_i = -log( exp(s_ip / t) / sum_{k != i} exp(s_ik / t) ),   s = cosine,  p = partner of i

    Args:
        a, b: Projections of the two views, float [N, D], any norm; row i of both is sample i.
            fp16 and bf16 are computed in fp32, under autocast too.
        temperature: t > 0.

    Returns:
        Scalar, mean over the 2N anchors, >= 0; log(2N - 1) where all similarities are equal.
        Over several ranks the negatives are those of the whole batch.

    Raises:
        ValueError: If the shapes differ or are not [N, D], or `temperature` is not above 0.
    """
    check_rows(a=a, b=b)
    check_temperature(temperature)
    cosines, itself, partner = similarities(a, b)
    return F.cross_entropy(without(cosines / temperature, itself), partner)
