"""The N-pair loss, which is also the loss of one prediction step of CPC.

Source: Sohn 2016, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective",
NeurIPS, Sec. 3.2; van den Oord et al. 2018, "Representation Learning with Contrastive Predictive
Coding", arXiv:1807.03748, Eq. 4.
Differs: no penalty on the norms of the rows.
"""

from torch import Tensor

from clctl.losses._rows import check_rows, dots_with_all, pick_own, wide


def n_pair(anchor: Tensor, positive: Tensor) -> Tensor:
    """Cross-entropy of raw dot products of each anchor with all positives, mean over rows.

        l_i = -log( exp(a_i . p_i) / sum_k exp(a_i . p_k) )

    For CPC the anchors are the predictions of step k, W_k c_t, and the positives what is found
    there, z_{t+k}, over all samples and places of the batch.

    Args:
        anchor, positive: float [N, D], rows as given.
            fp16 and bf16 are computed in fp32, under autocast too.

    Returns:
        Scalar >= 0; log N where all products are equal. Over several ranks the positives are
        those of the whole batch.

    Raises:
        ValueError: If the shapes differ or are not [N, D].
    """
    check_rows(anchor=anchor, positive=positive)
    return pick_own(dots_with_all(*wide(anchor, positive)))
