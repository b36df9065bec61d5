"""The loss of NNCLR: InfoNCE whose positive is a nearest neighbour.

Source: Dwibedi et al. 2021, "With a Little Help from My Friends: Nearest-Neighbor Contrastive
Learning of Visual Representations", arXiv:2104.14548, Sec. 3.2.
"""

from torch import Tensor

from clctl.losses._rows import (
    check_bank,
    check_rows,
    check_temperature,
    dots,
    dots_with_all,
    pick_own,
    unit,
)


def nn_info_nce(
    projection: Tensor,
    prediction: Tensor,
    support: Tensor,
    temperature: float | Tensor = 0.1,
) -> Tensor:
    """Cross-entropy of the neighbour of each row against its prediction among all predictions.

        l_i = -log( exp(n_i . p_i / t) / sum_k exp(n_i . p_k / t) ),   n_i = nearest of support

    Args:
        projection: Of one view, float [N, D], any norm; receives no gradient, for it only chooses.
        prediction: Of the other view, float [N, D], any norm.
            fp16 and bf16 are computed in fp32, under autocast too.
        support: Rows to choose from, float [K, D], any norm; receives no gradient.
        temperature: t > 0.

    Returns:
        Scalar, mean over rows, >= 0; log N where all similarities are equal. One direction: call
        it with the views swapped too. Over several ranks the predictions are those of the batch.

    Raises:
        ValueError: If the shapes are not [N, D] and [K, D], or `temperature` is not above 0.
    """
    check_rows(projection=projection, prediction=prediction)
    check_bank("support", support, projection.shape[1])
    check_temperature(temperature)
    projection, prediction, support = unit(projection.detach(), prediction, support.detach())
    neighbour = support[dots(projection, support).argmax(dim=1)]
    return pick_own(dots_with_all(neighbour, prediction) / temperature)
