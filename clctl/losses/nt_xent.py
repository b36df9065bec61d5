"""NT-Xent, the loss of SimCLR.

Source: Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual
Representations", arXiv:2002.05709, Eq. 1 and Alg. 1.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from clctl.distributed import gather, world


def nt_xent(a: Tensor, b: Tensor, temperature: float = 0.5) -> Tensor:
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
    if a.shape != b.shape or a.dim() != 2:
        raise ValueError(f"a and b must both be [N, D], got {tuple(a.shape)} and {tuple(b.shape)}")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    n, (rank, ranks) = len(a), world()
    a, b = (F.normalize(_wide(x), dim=1) for x in (a, b))
    anchors = torch.cat([a, b])
    everyone = torch.cat([gather(a), gather(b)])
    mine = torch.arange(n, device=a.device) + rank * n
    itself = torch.cat([mine, mine + ranks * n])
    partner = torch.cat([mine + ranks * n, mine])
    with torch.autocast(a.device.type, enabled=False):
        logits = anchors @ everyone.T / temperature
    # Out of place, for autograd keeps the product.
    logits = logits.scatter(1, itself[:, None], float("-inf"))
    return F.cross_entropy(logits, partner)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
