"""NT-Xent whose negatives are corrected for false ones and weighted by their hardness.

Source: Chuang et al. 2020, "Debiased Contrastive Learning", arXiv:2007.00224, Eq. 7 and 8;
Robinson et al. 2021, "Contrastive Learning with Hard Negative Samples", arXiv:2010.04592,
Sec. 3, with the weights of the official code, which have a gradient.
"""

import torch
from torch import Tensor

from clctl.losses._rows import check_rows, check_temperature
from clctl.losses._views import similarities, without


def debiased_nt_xent(
    a: Tensor, b: Tensor, temperature: float | Tensor = 0.5, tau_plus: float = 0.1
) -> Tensor:
    """NT-Xent less what samples of the anchor's own class are expected to add to the negatives.

        l_i = -log( pos / (pos + Ng) ),   pos = exp(s_ip / t),   neg_k = exp(s_ik / t)
        Ng = max( (sum_k neg_k - T N pos) / (1 - T),  N exp(-1 / t) ),   N = 2B - 2 negatives

    Args:
        a, b: Projections of the two views, float [B, D], any norm; row i of both is sample i.
            fp16 and bf16 are computed in fp32, under autocast too.
        temperature: t > 0.
        tau_plus: T in [0, 1), the chance that a negative is of the anchor's class.

    Returns:
        Scalar, mean over the 2B anchors, >= 0; `nt_xent` at `tau_plus` 0. Over several ranks the
        negatives are those of the whole batch.

    Raises:
        ValueError: If the shapes differ or are not [B, D], or a number is out of its range.
    """
    return hard_negative_nt_xent(a, b, temperature, tau_plus, beta=0.0)


def hard_negative_nt_xent(
    a: Tensor,
    b: Tensor,
    temperature: float | Tensor = 0.5,
    tau_plus: float = 0.1,
    beta: float = 1.0,
) -> Tensor:
    """`debiased_nt_xent` whose sum over negatives is weighted towards the near ones.

        sum_k neg_k  becomes  sum_k w_k neg_k / mean_k w_k,   w_k = neg_k^beta = exp(beta s_ik / t)

    Args:
        a, b: Projections of the two views, float [B, D], any norm; row i of both is sample i.
            fp16 and bf16 are computed in fp32, under autocast too.
        temperature: t > 0.
        tau_plus: T in [0, 1), the chance that a negative is of the anchor's class.
        beta: Concentration on hard negatives, >= 0.

    Returns:
        Scalar, mean over the 2B anchors, >= 0; `debiased_nt_xent` at `beta` 0. Over several ranks
        the negatives are those of the whole batch.

    Raises:
        ValueError: If the shapes differ or are not [B, D], or a number is out of its range.
    """
    check_rows(a=a, b=b)
    check_temperature(temperature)
    if not 0 <= tau_plus < 1:
        raise ValueError(f"tau_plus must be in [0, 1), got {tau_plus}")
    if not beta >= 0:
        raise ValueError(f"beta must not be below 0, got {beta}")
    cosines, itself, partner = similarities(a, b)
    scaled, count = cosines / temperature, cosines.shape[1] - 2
    logits = without(scaled, itself)
    # All of a row over the same largest term: exp(1 / t) itself has no room in fp32 at t = 0.01.
    top = logits.detach().amax(dim=1, keepdim=True)
    own = logits.gather(1, partner[:, None]) - top
    negatives = without(logits, partner) - top
    # A number and not -inf: an anchor without negatives must not divide nothing by nothing.
    least = torch.finfo(scaled.dtype).min
    weights = (beta * scaled).masked_fill(negatives.isinf(), least).softmax(dim=1)
    spread = count * (weights * negatives.exp()).sum(dim=1, keepdim=True)
    rest = (spread - tau_plus * count * own.exp()) / (1 - tau_plus)
    rest = torch.maximum(rest, count * torch.exp(-1 / temperature - top))
    return (torch.log(own.exp() + rest) - own).mean()
