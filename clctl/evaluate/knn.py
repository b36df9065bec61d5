"""Weighted k-nearest-neighbour classification, exact and chunked.

Source: Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance
Discrimination", arXiv:1805.01978, Sec. 3.4.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 1024  # queries at once: bounds memory at CHUNK x bank floats


def knn(
    bank: Tensor,
    labels: Tensor,
    queries: Tensor | None,
    *,
    classes: int,
    k: int = 20,
    temperature: float = 0.07,
) -> Tensor:
    """Share of the vote of each class, by cosine similarity weighted with exp(cos / temperature).

    Args:
        bank: float [N, D], any norm.
        labels: int64 [N] in [0, classes).
        queries: float [M, D]; None: the bank itself, each row without itself (leave-one-out).
        k: Neighbours that vote; all there are if fewer.
        temperature: Above 0.

    Returns:
        float32 [M, classes], rows sum to 1.

    Raises:
        ValueError: If there is no neighbour to ask, or k or temperature is out of range.
    """
    alone = queries is None
    available = len(bank) - alone
    if available < 1 or k < 1 or not temperature > 0:
        raise ValueError(f"{available} neighbours, k {k}, temperature {temperature}")
    k = min(k, available)
    bank = F.normalize(bank.float(), dim=1)
    rows = bank if queries is None else F.normalize(queries.float(), dim=1)
    votes = []
    for start in range(0, len(rows), CHUNK):
        similarity = rows[start : start + CHUNK] @ bank.T
        if alone:
            here = torch.arange(len(similarity), device=bank.device)
            similarity[here, here + start] = float("-inf")
        near, index = similarity.topk(k, dim=1)
        weight = torch.softmax(near / temperature, dim=1)
        vote = torch.zeros(len(near), classes, device=bank.device)
        votes.append(vote.scatter_add_(1, labels.to(bank.device)[index], weight))
    return torch.cat(votes)
