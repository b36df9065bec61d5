"""Pictures that are there twice: byte for byte, or to the eye, and on which side of a split.

Near duplicates are found by a hash of the signs of low frequencies (Zauner 2010, "Implementation
and benchmarking of perceptual image hash functions", Sec. 3.2.1) and confirmed on 32x32 pixels.
Found are copies that were scaled, compressed again or brightened; not mirrored, turned or much
cropped ones.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from clctl.data.survey import SIDE, Look

BITS_APART = 4  # of 63: largest Hamming distance of the hashes of near duplicates
ALIKE = 0.98  # smallest correlation of their grey pixels
TINT_APART = 16.0  # levels: largest difference of a mean channel, brightness aside
_KEPT = 8  # lowest frequencies in each direction
_BANDS = BITS_APART + 1
_CHUNK = 4096  # pairs confirmed at once


@dataclass(frozen=True)
class Crossing:
    """Pictures of one split that have a twin in another.

    Attributes:
        split, other: Names of the splits, the later one first.
        exact: How many of `split` have a byte for byte twin in `other`.
        near: How many others of `split` have a near twin there.
        named: Rows of the first few, each with the row of a twin.
    """

    split: str
    other: str
    exact: int
    near: int
    named: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Duplicates:
    """Groups of rows, each rising.

    Attributes:
        exact: Files with the same bytes.
        near: Groups that hold at least two different files; one may link many by a chain.
        crossings: For each two splits that share something.
    """

    exact: list[list[int]]
    near: list[list[int]]
    crossings: list[Crossing]


def duplicates(looks: Sequence[Look], rows: Sequence[int], splits: Sequence[str]) -> Duplicates:
    """Find pictures that are there twice.

    Args:
        looks: N pictures.
        rows: What to call them in the answer; rising.
        splits: The split of each.
    """
    sets: defaultdict[str, list[int]] = defaultdict(list)
    for at, look in enumerate(looks):
        sets[look.digest].append(at)
    copies = list(sets.values())
    firsts = [looks[members[0]] for members in copies]
    grey = np.stack([look.grey for look in firsts]) if firsts else np.zeros((0, SIDE, SIDE), "u1")
    tint = np.stack([look.tint for look in firsts]) if firsts else np.zeros((0, 3), "f4")
    pairs = near(grey, tint, np.array([look.flat for look in firsts], bool))
    exact = [[rows[at] for at in members] for members in copies if len(members) > 1]
    return Duplicates(
        exact,
        [
            sorted(rows[at] for one in group for at in copies[one])
            for group in _groups(len(copies), pairs)
        ],
        list(_crossings(copies, pairs, rows, splits)),
    )


def hashes(grey: np.ndarray) -> np.ndarray:
    """Perceptual hashes uint64 [N], 63 bits used, of grey pictures uint8 [N, 32, 32].

    Each bit is whether a cosine coefficient (horizontal and vertical frequency 0 to 7, without
    the mean) is above the median of the picture's.
    """
    place = np.arange(SIDE) + 0.5
    cosines = np.cos(np.pi / SIDE * np.outer(np.arange(_KEPT), place)).astype(np.float32)
    found = np.empty(len(grey), np.uint64)
    weights = np.uint64(1) << np.arange(_KEPT**2 - 1, dtype=np.uint64)
    for first in range(0, len(grey), _CHUNK):
        chunk = grey[first : first + _CHUNK].astype(np.float32)
        waves = (cosines @ chunk @ cosines.T).reshape(len(chunk), -1)[:, 1:]
        bits = waves > np.median(waves, axis=1, keepdims=True)
        found[first : first + _CHUNK] = np.where(bits, weights, np.uint64(0)).sum(1)
    return found


def near(grey: np.ndarray, tint: np.ndarray, flat: np.ndarray) -> np.ndarray:
    """Pairs of near duplicates, int64 [P, 2], i < j, each once.

    Two hashes at most BITS_APART bits apart agree in one of BITS_APART + 1 bands at least, so
    that only pictures that share a band are compared.

    Args:
        grey: uint8 [N, 32, 32].
        tint: float32 [N, 3], mean of each channel.
        flat: bool [N]; pictures that show nothing are like no other.
    """
    found = hashes(grey)
    usable = np.flatnonzero(~flat)
    width = -(-(_KEPT**2 - 1) // _BANDS)
    confirmed = [np.zeros((0, 2), np.int64)]
    for band in range(_BANDS):
        part = (found[usable] >> np.uint64(band * width)) & np.uint64(2**width - 1)
        order = usable[np.argsort(part, kind="stable")]
        part = np.sort(part)
        at = np.arange(len(order))
        for step in range(1, len(order)):
            at = at[at + step < len(order)]
            at = at[part[at] == part[at + step]]
            if not len(at):
                break
            i, j = order[at], order[at + step]
            close = _bits(found[i] ^ found[j]) <= BITS_APART
            confirmed.append(_confirmed(grey, tint, np.stack([i[close], j[close]], 1)))
    return np.unique(np.sort(np.concatenate(confirmed), axis=1), axis=0)


def _bits(words: np.ndarray) -> np.ndarray:
    return np.unpackbits(words.view(np.uint8).reshape(-1, 8), axis=1).sum(1)


def _confirmed(grey: np.ndarray, tint: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    kept = [pairs[:0]]
    for first in range(0, len(pairs), _CHUNK):
        some = pairs[first : first + _CHUNK]
        a, b = (grey[some[:, side]].reshape(len(some), -1).astype(np.float32) for side in (0, 1))
        a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
        norms = np.sqrt((a * a).sum(1) * (b * b).sum(1))
        shift = tint[some[:, 0]] - tint[some[:, 1]]
        hue = np.abs(shift - shift.mean(1, keepdims=True)).max(1)
        kept.append(some[((a * b).sum(1) >= ALIKE * norms) & (hue <= TINT_APART)])
    return np.concatenate(kept)


def _groups(count: int, pairs: np.ndarray) -> list[list[int]]:
    """Sets of two and more that the pairs link together."""
    links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), (count, count))
    _, number = connected_components(links, directed=False)
    members: defaultdict[int, list[int]] = defaultdict(list)
    for at in np.unique(pairs).tolist():
        members[int(number[at])].append(at)
    return list(members.values())


def _crossings(
    copies: list[list[int]], pairs: np.ndarray, rows: Sequence[int], splits: Sequence[str]
) -> Iterator[Crossing]:
    beside: defaultdict[int, list[int]] = defaultdict(list)
    for i, j in pairs.tolist():
        beside[i].append(j)
        beside[j].append(i)
    for other, split in combinations(dict.fromkeys(splits), 2):
        there = {n: at for n, each in enumerate(copies) for at in each if splits[at] == other}
        exact, near, named = 0, 0, list[tuple[int, int]]()
        for number, members in enumerate(copies):
            mine = [at for at in members if splits[at] == split]
            twin = there.get(number)
            if twin is not None:
                exact += len(mine)
            else:
                twin = next((there[n] for n in beside[number] if n in there), None)
                near += len(mine) if twin is not None else 0
            if twin is not None:
                named += [(rows[at], rows[twin]) for at in mine]
        if exact + near:
            yield Crossing(split, other, exact, near, tuple(named))
