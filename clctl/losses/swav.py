"""Online clustering of SwAV: balanced assignments, and the prediction of one crop's by another.

Source: Caron et al. 2020, "Unsupervised Learning of Visual Features by Contrasting Cluster
Assignments", arXiv:2006.09882, Eq. 2 (prediction) and 3 to 5 (assignments); Cuturi 2013,
"Sinkhorn Distances", arXiv:1306.0895, Alg. 1.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from clctl.distributed import largest, total
from clctl.losses._crops import check_crops, mean_over_pairs
from clctl.losses._rows import check_temperature, wide


def sinkhorn(scores: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Assignments of samples to prototypes that use all prototypes about equally.

        Q = diag(u) exp(scores / epsilon) diag(v)

    with u and v from alternately giving columns, then rows, equal sums.

    Args:
        scores: Cosines of samples and prototypes, float [B, K], as given.
            fp16 and bf16 are computed in fp32.
        epsilon: Smoothness > 0; the smaller, the nearer to one prototype a sample.
        iterations: Rounds of normalisation, >= 1; with more, columns sum to B / K ever closer.

    Returns:
        Q [B, K] in [0, 1] without gradient; every row sums to 1. Over several ranks the columns
        are those of the whole batch.

    Raises:
        ValueError: If the shape is not [B, K], `epsilon` not above 0 or `iterations` below 1.
    """
    if scores.dim() != 2 or not scores.numel():
        raise ValueError(f"scores must be [B, K] and not empty, got {tuple(scores.shape)}")
    check_temperature(epsilon, "epsilon")
    if iterations < 1:
        raise ValueError(f"iterations must be 1 or more, got {iterations}")
    # Logarithms, for exp(1 / epsilon) leaves fp32 little room; constant factors fall away.
    log_q = wide(scores.detach())[0] / epsilon
    for _ in range(iterations):
        top = largest(log_q.amax(dim=0))
        log_q = log_q - top - total((log_q - top).exp().sum(dim=0)).log()
        log_q = log_q.log_softmax(dim=1)
    return log_q.exp()


def swapped_prediction(
    scores: Sequence[Tensor],
    assignments: Sequence[Tensor],
    temperature: float | Tensor = 0.1,
) -> Tensor:
    """Cross-entropy of each crop's prediction with the assignment of another crop of the sample.

        l_ij = -sum_k q_i^(k) log softmax(s_j / t)^(k),   mean over i != j, and over rows

    Args:
        scores: Cosines with the prototypes of every crop, each float [B, K], as given.
            fp16 and bf16 are computed in fp32.
        assignments: Of the first crops, each float [B, K], rows of sum 1; receive no gradient.
        temperature: t > 0.

    Returns:
        Scalar >= 0; log K where all scores are equal.

    Raises:
        ValueError: If the shapes differ or are not [B, K], there are fewer than 2 crops, none or
            too many assignments, or `temperature` is not above 0.
    """
    check_crops(scores, assignments, "scores and assignments")
    check_temperature(temperature)
    log_p = [torch.log_softmax(s / temperature, dim=1) for s in wide(*scores)]
    return mean_over_pairs(log_p, wide(*(q.detach() for q in assignments)))
