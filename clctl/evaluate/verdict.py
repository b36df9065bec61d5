"""What the geometry of features says in words: healthy, collapsed in some dimensions, collapsed."""

from dataclasses import dataclass

import torch
from torch import Tensor

from clctl.evaluate.diagnostics import feature_spread, rank_me

POINT = 0.05  # spread below which all features are as good as one point
CLIFF = 10.0  # a fall from one singular value to the next that no healthy spectrum has
THIN = 0.02  # effective rank over the possible one below which few directions carry all


@dataclass(frozen=True)
class Geometry:
    """A reading of features [N, D].

    Attributes:
        verdict: "healthy", "dimensional collapse at rank r", or "collapsed".
        rank: r of a dimensional collapse; 0 of a collapse; else None.
        singular_values: Of the centred features over sqrt(N), largest first: float64 [min(N, D)].
        dead: How many of the D dimensions do not vary at all.
        spread: See `diagnostics.feature_spread`.
    """

    verdict: str
    rank: int | None
    singular_values: Tensor
    dead: int
    spread: float


def geometry(z: Tensor) -> Geometry:
    """Read features float [N, D], N at least 2, all finite.

    Collapsed: the spread of the unit rows is under POINT, or nothing varies. Dimensional
    collapse at rank r: the singular values fall by more than CLIFF from the r-th to the next, in
    their first half; or the effective rank of the centred features is under 2, or under THIN of
    what N and D allow: then r is that rank, rounded.
    Source: Jing et al. 2022, arXiv:2110.09348, Sec. 3; Garrido et al. 2023, arXiv:2210.02885. The
    thresholds are ours.
    """
    around = z.double() - z.double().mean(dim=0)
    values = torch.linalg.svdvals(around) / len(z) ** 0.5
    scale = float(z.double().abs().max().clamp_min(1e-300))
    noise = 1e-6 * scale  # what float32 rounding leaves of a constant
    dead = int((around.abs().amax(dim=0) <= noise).sum())
    spread = feature_spread(z)
    if float(values[0]) <= noise or spread < POINT:
        return Geometry("collapsed", 0, values, dead, spread)
    # N centred rows span N - 1 directions: the last value of a square set is nothing but that.
    rank = _cliff(values[: len(z) - 1]) or _thin(around, z)
    verdict = "healthy" if rank is None else f"dimensional collapse at rank {rank}"
    return Geometry(verdict, rank, values, dead, spread)


def _cliff(values: Tensor) -> int | None:
    """The rank behind which the singular values fall off, in the first half of them."""
    half = len(values) // 2
    if not half:
        return None
    falls = values[:half] / values[1 : half + 1].clamp_min(1e-300)
    at = int(falls.argmax())
    return at + 1 if float(falls[at]) > CLIFF else None


def _thin(around: Tensor, z: Tensor) -> int | None:
    possible = min(len(z) - 1, z.shape[1])
    effective = rank_me(around)
    thin = possible > 4 and effective < max(2.0, THIN * possible)
    return max(1, round(effective)) if thin else None
