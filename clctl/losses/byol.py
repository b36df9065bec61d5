"""The regression loss of BYOL.

Source: Grill et al. 2020, "Bootstrap Your Own Latent", arXiv:2006.07733, Eq. 2.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def byol(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared distance of unit vectors, 2 - 2 cos(prediction, target), mean over rows.

    Args:
        prediction: float [N, D], any norm. fp16 and bf16 are computed in fp32.
        target: float [N, D], any norm; receives no gradient.

    Returns:
        Scalar in [0, 4]: 0 where every pair is parallel, 2 where orthogonal.

    Raises:
        ValueError: If the shapes differ or are not [N, D].
    """
    if prediction.shape != target.shape or prediction.dim() != 2:
        shapes = f"{tuple(prediction.shape)} and {tuple(target.shape)}"
        raise ValueError(f"prediction and target must both be [N, D], got {shapes}")
    if prediction.dtype in (torch.float16, torch.bfloat16):
        prediction = prediction.float()
    target = target.detach().to(prediction.dtype)
    unit, aim = F.normalize(prediction, dim=1), F.normalize(target, dim=1)
    return 2 - 2 * (unit * aim).sum(dim=1).mean()
