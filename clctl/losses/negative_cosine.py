"""The regression loss of SimSiam.

Source: Chen and He 2021, "Exploring Simple Siamese Representation Learning",
arXiv:2011.10566, Eq. 1 and 3.
"""

from torch import Tensor

from clctl.losses._rows import check_rows, unit


def negative_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """Minus the cosine of each prediction and its target, mean over rows.

        l_i = -cos(p_i, z_i)

    Args:
        prediction: float [N, D], any norm. fp16 and bf16 are computed in fp32.
        target: float [N, D], any norm; receives no gradient.

    Returns:
        Scalar in [-1, 1]: -1 where every pair is parallel, 0 where orthogonal.

    Raises:
        ValueError: If the shapes differ or are not [N, D].
    """
    check_rows(prediction=prediction, target=target)
    prediction, target = unit(prediction, target.detach())
    return -(prediction * target).sum(dim=1).mean()
