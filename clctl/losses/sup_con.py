"""Supervised contrastive loss.

Source: Khosla et al. 2020, "Supervised Contrastive Learning", arXiv:2004.11362, Eq. 2 (`out`)
and Eq. 3 (`in`).
Differs: mean over the anchors that have a positive where the paper sums over all, and no factor
temperature / base temperature, which the official code has.
"""

from typing import Literal

import torch
from torch import Tensor

from clctl.distributed import gather
from clctl.losses._rows import (
    check_labels,
    check_rows,
    check_temperature,
    dots_with_all,
    mean_where,
    places,
    unit,
)
from clctl.losses._views import without


def sup_con(
    z: Tensor,
    labels: Tensor,
    temperature: float | Tensor = 0.1,
    form: Literal["out", "in"] = "out",
) -> Tensor:
    """Cross-entropy of each row against all others of its label among all other rows.

        q_ik = exp(s_ik / t) / sum_{j != i} exp(s_ij / t),   P = others with the label of i
        out   l_i = -1/|P| sum_{p in P} log q_ip
        in    l_i = -log( 1/|P| sum_{p in P} q_ip ),  never above `out`

    Args:
        z: float [N, D], any norm; two views of a batch are simply 2N rows.
            fp16 and bf16 are computed in fp32, under autocast too.
        labels: [N], anything that compares by ==.
        temperature: t > 0.
        form: Whether the sum over positives stands outside or inside the logarithm.

    Returns:
        Scalar >= 0, mean over the anchors that have a positive, 0 if none has; `nt_xent` where
        two views are the only rows of a label. Over several ranks the other rows are those of
        the whole batch, and the value is that of all.

    Raises:
        ValueError: If the shapes are not [N, D] and [N], `temperature` is not above 0, or `form`
            is unknown.
    """
    check_rows(z=z)
    check_labels("labels", labels, len(z))
    check_temperature(temperature)
    if form not in ("out", "in"):
        raise ValueError(f"form must be out or in, got {form!r}")
    (z,) = unit(z)
    itself = places(z)
    positive = (labels[:, None] == gather(labels)).scatter(1, itself[:, None], False)
    logits = dots_with_all(z, z) / temperature
    count = positive.sum(dim=1).to(logits.dtype)
    log_q = logits - without(logits, itself).logsumexp(dim=1, keepdim=True)
    if form == "out":
        loss = -torch.where(positive, log_q, 0).sum(dim=1) / count.clamp_min(1)
    else:
        inside = log_q.masked_fill(~positive, float("-inf")).logsumexp(dim=1)
        loss = count.clamp_min(1).log() - inside
    return mean_where(loss, count > 0)
