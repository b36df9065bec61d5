"""InfoNCE with cosines: against a queue, as in MoCo, or against the other rows of the batch.

Source: He et al. 2020, "Momentum Contrast for Unsupervised Visual Representation Learning",
arXiv:1911.05722, Eq. 1; van den Oord et al. 2018, arXiv:1807.03748, Eq. 4.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from clctl.losses._rows import (
    check_bank,
    check_rows,
    check_temperature,
    dots,
    dots_with_all,
    pick_own,
    unit,
)


def info_nce(
    query: Tensor,
    positive: Tensor,
    negatives: Tensor | None = None,
    temperature: float | Tensor = 0.07,
) -> Tensor:
    """Cross-entropy of each query against its positive among negatives, mean over rows.

        l_i = -log( exp(q_i . p_i / t) / (exp(q_i . p_i / t) + sum_k exp(q_i . n_k / t)) )

    Args:
        query, positive: float [N, D], any norm; row i of both is sample i. Both receive gradients.
            fp16 and bf16 are computed in fp32, under autocast too.
        negatives: The only negatives n, float [K, D], any norm; receive no gradient. Without them
            the negatives of a query are the other rows of `positive`, in one direction.
        temperature: t > 0.

    Returns:
        Scalar >= 0; log(1 + K), or log N, where all similarities are equal. Over several ranks
        the rows of `positive` are those of the whole batch.

    Raises:
        ValueError: If the shapes are not [N, D] and [K, D], or `temperature` is not above 0.
    """
    check_rows(query=query, positive=positive)
    check_temperature(temperature)
    if negatives is None:
        return pick_own(dots_with_all(*unit(query, positive)) / temperature)
    check_bank("negatives", negatives, query.shape[1])
    query, positive, negatives = unit(query, positive, negatives.detach())
    own = (query * positive).sum(dim=1, keepdim=True)
    logits = torch.cat([own, dots(query, negatives)], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.long, device=query.device))
