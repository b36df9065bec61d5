"""Retrieval of images of the same class: recall, precision and mean average precision at R.

Source: Musgrave et al. 2020, "A Metric Learning Reality Check", arXiv:2003.08505, Sec. 3.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clctl.evaluate.knn import nearest

NEIGHBOURS = 2**24  # looked at at once: what bounds memory where classes are large


@dataclass(frozen=True)
class Retrieval:
    """How well queries find their class.

    Attributes:
        metrics: recall_at_k and precision_at_k of each k, and map_at_r, in [0, 1]: means over
            the queries that are scored.
        first_hit: bool [M], whether the nearest has the label of the query; False where `without`.
        queries: How many are scored.
        without: How many are in no metric, as no other item of the bank has their label.
    """

    metrics: dict[str, float]
    first_hit: Tensor
    queries: int
    without: int


def retrieval(
    bank: Tensor,
    labels: Tensor,
    queries: Tensor | None,
    query_labels: Tensor | None,
    *,
    ks: Sequence[int] = (1, 5, 10),
    device: torch.device | None = None,
) -> Retrieval:
    """Search by cosine similarity and count what has the label of the query.

    With R the number of items in the bank that have it, the query itself not counted:

    * recall_at_k, as metric learning has it, is the share of queries with at least one of R among
      the k nearest; not the share of R that is found, which is called recall elsewhere.
    * precision_at_k is the mean share of the k nearest that are of R. Where the bank has fewer
      than k, those that are missing count as misses.
    * map_at_r is the mean over queries of (1/R) sum_{i <= R} P(i) rel(i), with P(i) the precision
      at i and rel(i) 1 where the i-th nearest is of R, else 0.

    A query with R = 0 cannot be answered and is left out of all three.

    Args:
        bank: float [N, D], any norm.
        labels: int64 [N], any numbers.
        queries: float [M, D]; None: the bank itself, each row without itself (leave-one-out).
        query_labels: int64 [M]; None exactly if queries is.
        ks: Above 0.
        device: Where to compute; None: where the bank is.

    Returns:
        The metrics; `first_hit` on the CPU.

    Raises:
        ValueError: As `nearest`; or if a k is below 1, there are not as many labels as features,
            or every query has R = 0.
    """
    rows, wanted = bank, labels
    if queries is not None and query_labels is not None:
        rows, wanted = queries, query_labels
    elif queries is not None or query_labels is not None:
        raise ValueError("queries and their labels are given both or not at all")
    if len(labels) != len(bank) or len(wanted) != len(rows):
        raise ValueError(f"{len(labels)}, {len(wanted)} labels of {len(bank)}, {len(rows)} rows")
    if not ks or min(ks) < 1:
        raise ValueError(f"ks {tuple(ks)} must be above 0")
    alone, labels, wanted = queries is None, labels.cpu(), wanted.cpu()
    relevant = _occurrences(labels, wanted) - int(alone)
    first_hit = torch.zeros(len(rows), dtype=torch.bool)
    shares, average = [], []
    for part in _parts(relevant, max(ks)):
        deepest = max(int(relevant[part].max()), *ks)
        own = part if alone else None
        _, index = nearest(bank, rows[part.to(rows.device)], deepest, device, own=own)
        hit = labels[index.cpu()] == wanted[part][:, None]
        first_hit[part] = hit[:, 0]
        shares.append(torch.stack([hit[:, :k].sum(dim=1).double() / k for k in ks], dim=1))
        average.append(_average_precision(hit, relevant[part]))
    if not shares:
        raise ValueError(f"none of {len(rows)} queries has another item of its label in the bank")
    share = torch.cat(shares)
    metrics: dict[str, float] = {}
    for k, column in zip(ks, share.unbind(dim=1), strict=True):
        metrics[f"recall_at_{k}"] = float((column > 0).double().mean())
        metrics[f"precision_at_{k}"] = float(column.mean())
    metrics["map_at_r"] = float(torch.cat(average).mean())
    return Retrieval(metrics, first_hit, len(share), len(rows) - len(share))


def _occurrences(labels: Tensor, wanted: Tensor) -> Tensor:
    """How often each of `wanted` is among the labels, int64 [M]."""
    _, number = torch.cat([labels, wanted]).unique(return_inverse=True)
    counts = torch.bincount(number[: len(labels)], minlength=len(number))
    return counts[number[len(labels) :]]


def _parts(relevant: Tensor, least: int) -> tuple[Tensor, ...]:
    """Positions of the queries that can be answered, in parts that need about equal depths.

    So that a few large classes do not make every query look as deep as theirs.
    """
    order = relevant.argsort(stable=True)
    order = order[relevant[order] > 0]
    if not len(order):
        return ()
    return order.split(max(1, NEIGHBOURS // max(int(relevant.max()), least)))


def _average_precision(hit: Tensor, relevant: Tensor) -> Tensor:
    """(1/R) sum_{i <= R} P(i) rel(i) of hits bool [M, K], best first, K at least R: float64 [M]."""
    place = torch.arange(1, hit.shape[1] + 1)
    counted = hit & (place <= relevant[:, None])
    precision = counted.cumsum(dim=1).double() / place
    return (precision * counted).sum(dim=1) / relevant
