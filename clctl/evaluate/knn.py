"""Nearest neighbours by cosine similarity, exact and in bounded memory, and their weighted vote.

Source: Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance
Discrimination", arXiv:1805.01978, Sec. 3.4.
"""

from math import isqrt

import torch
from torch import Tensor

QUERIES = 256  # queries at once
BANK = 2**16  # rows of the bank at once, where FLOATS does not allow less
FLOATS = 2**25  # in the copy of a part of the bank, 128 MiB
GROUP = 16  # rows of the bank of which the best stands for all in the first choice, at most
LOW = 2**32 - 1  # the lower half of a key


def knn(
    bank: Tensor,
    labels: Tensor,
    queries: Tensor | None,
    *,
    classes: int,
    k: int = 20,
    temperature: float = 0.07,
    device: torch.device | None = None,
) -> Tensor:
    """Share of the vote of each class, by cosine similarity weighted with exp(cos / temperature).

    Args:
        bank: float [N, D], any norm.
        labels: int64 [N] in [0, classes).
        queries: float [M, D]; None: the bank itself, each row without itself (leave-one-out).
        k: Neighbours that vote; all there are if fewer.
        temperature: Above 0.
        device: Where to compute; None: where the bank is.

    Returns:
        float32 [M, classes] beside the bank, rows sum to 1.

    Raises:
        ValueError: As `nearest` and `vote`.
    """
    _above_zero(temperature)  # before the work
    similarity, index = nearest(bank, queries, k, device)
    return vote(
        similarity, labels.to(index.device)[index], classes=classes, temperature=temperature
    )


def vote(
    similarity: Tensor, neighbour_labels: Tensor, *, classes: int, temperature: float
) -> Tensor:
    """Share of the vote of each class; slices `[:, :k]` of one `nearest` serve any smaller k.

    Args:
        similarity: float [M, k] of the neighbours that vote, k at least 1.
        neighbour_labels: int64 [M, k] in [0, classes).
        temperature: Above 0; a neighbour weighs exp(similarity / temperature).

    Returns:
        float32 [M, classes], rows sum to 1.

    Raises:
        ValueError: If a label or the temperature is out of range.
    """
    _above_zero(temperature)
    outside = int(((neighbour_labels < 0) | (neighbour_labels >= classes)).sum())
    if outside:
        raise ValueError(f"{outside} labels of neighbours are not in [0, {classes})")
    # Differences to the best: a quotient of its own would overflow at a very low temperature.
    below = similarity.float() - similarity.float().amax(dim=1, keepdim=True)
    weight = torch.softmax(below / temperature, dim=1)
    empty = torch.zeros(len(weight), classes, device=weight.device)
    return empty.scatter_add_(1, neighbour_labels, weight)


@torch.no_grad()
def nearest(
    bank: Tensor,
    queries: Tensor | None,
    k: int,
    device: torch.device | None = None,
    *,
    own: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The k rows of the bank with the largest cosine similarity to each query, best first.

    Exact: of equal similarities the lower index comes first and stays. Rows that are equal can
    still differ in the last bit of their similarity, as a matrix product rounds by position.
    Beside the arguments and the result it needs about 0.5 GB, whatever N and M.

    Args:
        bank: float [N, D], any norm; a row of zeros has similarity 0 to everything.
        queries: float [M, D]; None: the bank itself, each row without itself (leave-one-out).
        k: Neighbours wanted; all there are if fewer.
        device: Where to compute, to which the features go part by part; None: where the bank is.
        own: int64 [M], the row of the bank that each query is and must not find; None with
            queries: they are not in the bank.

    Returns:
        Similarity float32 [M, k] in [-1, 1] up to rounding, and index int64 [M, k] into the bank,
        both beside the bank.

    Raises:
        ValueError: If there is no neighbour, k is below 1, the widths differ, or features are not
            finite as float32.
    """
    rows = bank if queries is None else queries
    if queries is None:
        own = torch.arange(len(bank))
    k = min(k, _available(bank, rows, k, own))
    device = device or bank.device
    step = min(BANK, max(1, FLOATS // bank.shape[1]), len(bank))
    group = min(GROUP, max(1, isqrt(step // k)))  # about as many groups as rows in k of them
    step = -(-step // group) * group
    scores = torch.empty(QUERIES * step, device=device)  # once: fresh pages cost time
    keys = torch.full((len(rows), k), torch.iinfo(torch.int64).min, device=device)
    for start in range(0, len(bank), step):
        count = len(bank[start : start + step])
        tile = _interleave(_unit(bank[start : start + step].to(device)), group)
        for first in range(0, len(rows), QUERIES):
            part = slice(first, first + QUERIES)
            query = _unit(rows[part].to(device))
            out = scores[: len(query) * len(tile)].view(len(query), len(tile))
            near = torch.mm(query, tile.T, out=out).view(len(query), group, -1)
            near[:, group - (len(tile) - count) :, -1] = -torch.inf  # what fills the last group
            if own is not None:
                _hide(near, own[part].to(device) - start, count)
            both = torch.cat([keys[part], _best(near, start, k)], dim=1)
            keys[part] = both.topk(k, dim=1).values
    return _similarity(keys).to(bank.device), _index(keys).to(bank.device)


def _above_zero(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"the temperature of neighbours' votes is {temperature}, not above 0")


def _available(bank: Tensor, rows: Tensor, k: int, own: Tensor | None) -> int:
    """Neighbours that each of `rows` has; refuses what has no answer."""
    available = len(bank) - (own is not None)
    if available < 1 or k < 1:
        raise ValueError(f"{available} neighbours, k {k}")
    if bank.ndim != 2 or rows.ndim != 2 or bank.shape[1] != rows.shape[1] or not bank.shape[1]:
        raise ValueError(f"features [{[*bank.shape]}, {[*rows.shape]}] are not [N, D] and [M, D]")
    for name, x in {"bank": bank, "queries": rows}.items():
        parts = x.split(max(1, FLOATS // x.shape[1]))
        bad = sum(int((~torch.isfinite(_largest(part))).sum()) for part in parts)
        if bad:
            raise ValueError(f"{bad} of {len(x)} rows of the {name} are not finite")
    return available


def _largest(x: Tensor) -> Tensor:
    """Largest absolute value of each row, float32 [B, 1]; not finite if any is not."""
    x = x.float()  # these two reductions are several times faster than the norm of order infinity
    return torch.maximum(x.amax(dim=1, keepdim=True), -x.amin(dim=1, keepdim=True))


def _unit(x: Tensor) -> Tensor:
    """Rows of norm 1; a row of zeros stays. Squares neither overflow nor vanish."""
    largest = _largest(x)
    x = x.float() / largest.masked_fill_(largest == 0, 1)
    return x.div_(torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min_(1))


def _interleave(tile: Tensor, group: int) -> Tensor:
    """Rows [B, D], filled up with zeros to whole groups, ordered by their place in their group.

    So that scores, seen as [M, group, groups], have consecutive rows of the bank as a group, which
    keeps the order of equals, and the maximum over groups runs along contiguous memory.
    """
    tile = torch.nn.functional.pad(tile, (0, 0, 0, -len(tile) % group))
    return tile.view(-1, group, tile.shape[1]).transpose(0, 1).reshape(tile.shape)


def _hide(near: Tensor, column: Tensor, count: int) -> None:
    """Take the column of each row, where it is one of the first `count`, out of the choice."""
    row = ((column >= 0) & (column < count)).nonzero().squeeze(1)
    near[row, column[row] % near.shape[1], column[row] // near.shape[1]] = -torch.inf


def _best(near: Tensor, start: int, k: int) -> Tensor:
    """Keys of the best k of scores [M, group, groups], int64 [M, k], fewer if there are.

    The best k are all in the k groups with the best maxima, of equals the first: a row in another
    group is behind one of every such group. A choice of k out of groups and then out of their
    rows is many times faster than one out of all.
    """
    group = near.shape[1]
    groups = torch.arange(near.shape[2], device=near.device)[None]
    if group > 1 and 2 * k <= near.shape[2]:
        groups = _index(_keys(near.amax(dim=1), groups).topk(k, dim=1, sorted=False).values)
        near = near.gather(2, groups[:, None].expand(-1, group, -1))
    place = torch.arange(group, device=near.device)[:, None]
    keys = _keys(near, start + group * groups[:, None] + place).flatten(1)
    return keys.topk(min(k, keys.shape[1]), dim=1, sorted=False).values


def _keys(similarity: Tensor, index: Tensor) -> Tensor:
    """Similarity and index as one int64, larger where more similar, of equals where first.

    The bits of floats, read as integers, have the order of the floats once those of the negative
    ones are turned round; they are the upper half.
    """
    bits = (similarity + 0.0).view(torch.int32)  # a copy, where -0.0 is 0.0
    bits ^= (bits >> 31).bitwise_and_(0x7FFFFFFF)
    return bits.long().mul_(2**32).add_(LOW).sub_(index)


def _similarity(keys: Tensor) -> Tensor:
    """The similarity in keys."""
    bits = (keys >> 32).int()
    return (bits ^ (bits >> 31 & 0x7FFFFFFF)).view(torch.float32)


def _index(keys: Tensor) -> Tensor:
    """The index in keys."""
    return LOW - (keys & LOW)
