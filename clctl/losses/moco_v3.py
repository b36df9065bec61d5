"""The contrastive loss of MoCo v3.

Source: Chen, Xie and He 2021, "An Empirical Study of Training Self-Supervised Vision
Transformers", arXiv:2104.02057, Eq. 1 and Alg. 1.
"""

from torch import Tensor

from clctl.losses._rows import check_rows, check_temperature, dots_with_all, pick_own, unit


def moco_v3(query: Tensor, key: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Cross-entropy of each query against its key among the keys of the batch, one direction.

        l_i = -2 t log( exp(q_i . k_i / t) / sum_j exp(q_i . k_j / t) )

    Args:
        query: float [N, D], any norm. fp16 and bf16 are computed in fp32, under autocast too.
        key: float [N, D], any norm; receives no gradient.
        temperature: t > 0. The factor 2 t makes the gradient much the same for all t.

    Returns:
        Scalar, mean over rows, >= 0; 2 t log N where all similarities are equal. Over several
        ranks the keys are those of the whole batch.

    Raises:
        ValueError: If the shapes differ or are not [N, D], or `temperature` is not above 0.
    """
    check_rows(query=query, key=key)
    check_temperature(temperature)
    loss = pick_own(dots_with_all(*unit(query, key.detach())) / temperature)
    # Both may be 0-d, and then a temperature in fp64 would widen the loss.
    return (2 * temperature * loss).to(loss.dtype)
