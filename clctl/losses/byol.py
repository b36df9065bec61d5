"""The regression loss of BYOL.

Source: Grill et al. 2020, "Bootstrap Your Own Latent", arXiv:2006.07733, Eq. 2.
"""

from torch import Tensor

from clctl.losses.negative_cosine import negative_cosine


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
    return 2 + 2 * negative_cosine(prediction, target)
