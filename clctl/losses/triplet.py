"""Triplet losses: of triplets that are given, and of those mined in a batch by label.

Source: Schroff et al. 2015, "FaceNet", arXiv:1503.03832, Sec. 3.1 and 3.2 (semi-hard); Hermans
et al. 2017, "In Defense of the Triplet Loss", arXiv:1703.07737, Eq. 5 (hard) and 6 (all).
Differs: means where the papers sum, and distances are squared only on request.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from clctl.distributed import gather
from clctl.losses._rows import check_labels, check_margin, check_rows, mean_where, places, wide

Mining = Literal["semi_hard", "hard", "all"]


def triplet(
    anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 0.2, squared: bool = False
) -> Tensor:
    """How far each negative is from being farther than the positive by a margin, mean over rows.

        l_i = max(0, d(a_i, p_i) - d(a_i, n_i) + m),   d Euclidean, or its square if `squared`

    Args:
        anchor, positive, negative: float [N, D], rows as given.
            fp16 and bf16 are computed in fp32.
        margin: m >= 0.
        squared: Whether d is the squared distance.

    Returns:
        Scalar >= 0; `margin` where all three coincide, with a gradient that is finite.

    Raises:
        ValueError: If the shapes differ or are not [N, D], or `margin` is below 0.
    """
    check_rows(anchor=anchor, positive=positive, negative=negative)
    check_margin(margin)
    anchor, positive, negative = wide(anchor, positive, negative)
    near, far = (F.pairwise_distance(anchor, x, eps=0.0) for x in (positive, negative))
    if squared:
        near, far = near.square(), far.square()
    return (near - far + margin).clamp_min(0).mean()


def mined_triplet(
    z: Tensor,
    labels: Tensor,
    mining: Mining = "semi_hard",
    margin: float = 0.2,
    squared: bool = False,
) -> Tensor:
    """`triplet` over triplets of a batch: a positive has the anchor's label, a negative another.

        semi_hard   every (a, p) with the nearest negative that is farther than p, or with the
                    farthest negative if none is; mean over all pairs, zeros included
        hard        every a with its farthest positive and nearest negative; mean over anchors
        all         every (a, p, n); mean over the triplets whose loss is above 0

    Args:
        z: float [N, D], rows as given. fp16 and bf16 are computed in fp32.
        labels: [N], anything that compares by ==.
        mining: Which triplets. `all` holds N * M * M numbers, M the rows of all ranks.
        margin: m >= 0.
        squared: Whether d is the squared distance; it does not change which triplets are mined.

    Returns:
        Scalar >= 0. Anchors without a positive or a negative are skipped; 0 where all are. Over
        several ranks the triplets are those of the whole batch, and the value is that of all.

    Raises:
        ValueError: If the shapes are not [N, D] and [N], `margin` is below 0, or `mining` unknown.
    """
    check_rows(z=z)
    check_labels("labels", labels, len(z))
    check_margin(margin)
    (z,) = wide(z)
    # Not through dot products: they lose small distances, and a gradient at 0 is not finite.
    d = torch.cdist(z, gather(z), compute_mode="donot_use_mm_for_euclid_dist")
    alike = labels[:, None] == gather(labels)
    positive, negative = alike.scatter(1, places(z)[:, None], False), ~alike
    if squared:
        d = d.square()
    nearest = d.masked_fill(~negative, float("inf"))
    if mining == "semi_hard":
        farthest = d.masked_fill(~negative, float("-inf")).amax(dim=1, keepdim=True)
        ranked = nearest.sort(dim=1).values
        # The anchor itself is no negative, so inf ends every row; only NaN would go beyond.
        first = torch.searchsorted(ranked.detach(), d.detach(), right=True)
        farther = ranked.gather(1, first.clamp_max(d.shape[1] - 1))
        excess = d - torch.where(farther.isinf(), farthest, farther)
        valid = positive & negative.any(dim=1, keepdim=True)
    elif mining == "hard":
        farthest = d.masked_fill(~positive, float("-inf")).amax(dim=1)
        excess = farthest - nearest.amin(dim=1)
        valid = positive.any(dim=1) & negative.any(dim=1)
    elif mining == "all":
        excess = d[:, :, None] - d[:, None, :]
        # Not `> 0`, which would let NaN pass for nothing to learn.
        valid = positive[:, :, None] & negative[:, None, :] & ~(excess + margin <= 0)
    else:
        raise ValueError(f"mining must be semi_hard, hard or all, got {mining!r}")
    return mean_where((excess + margin).clamp_min(0), valid)
