"""Multinomial logistic regression under many penalties at once.

Every problem walks by L-BFGS on its own, and all ask for loss and gradient in the same pass over
the data: two matrix products, as wide as there are problems left. A step that was too long is
shortened in the next pass, while the others go on; a problem that has arrived leaves the batch.

Source: Nocedal and Wright 2006, "Numerical Optimization", Alg. 7.4 (L-BFGS), Sec. 3.1
(sufficient decrease).
Differs: the initial inverse curvature of L-BFGS is renewed in every pass, a diagonal from the
probabilities of the moment, 1 / (mean p (1 - p) · mean z² + penalty).
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

MEMORY = 8  # pairs of step and change of gradient that a problem remembers
PASSES = 1000  # over the data at most
ROWS = {"cpu": 1024}  # at once: what they need stays in a processor's cache
MANY = 16384  # rows at once elsewhere
NOISE = 1e-7  # of a loss, relative: what float32 cannot tell

Pair = tuple[Tensor, Tensor, Tensor]
Evaluate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Fit:
    """Minima, one per penalty.

    Attributes:
        weight: float32 [P, classes, K]; what multiplies the last column is the bias.
        objective: float64 [P].
        converged: bool [P], the tolerance was reached.
    """

    weight: Tensor
    objective: Tensor
    converged: Tensor


@dataclass(frozen=True)
class _Walk:
    """Where each problem is; the first dimension of all is the problems still in the batch."""

    problem: Tensor
    ridge: Tensor
    weight: Tensor
    value: Tensor
    gradient: Tensor
    spread: Tensor
    gamma: Tensor
    direction: Tensor
    slope: Tensor
    step: Tensor

    def only(self, keep: Tensor) -> "_Walk":
        return _Walk(*(getattr(self, field.name)[keep] for field in fields(self)))


def minimise(
    z: Tensor,
    y: Tensor,
    penalties: Tensor,
    *,
    classes: int,
    start: Tensor | None = None,
    tolerance: float = 1e-6,
    passes: int = PASSES,
) -> Fit:
    """Minimise mean cross-entropy(z wᵀ, y) + penalty / 2 |w|², the last column of w free.

    Args:
        z: float32 [N, K], the last column 1; near uncorrelated columns make it fast.
        y: int64 [N] in [0, classes), each class there.
        penalties: float [P], above 0. With two classes |w|² counts the difference of their
            weights, which is logistic regression with one weight vector.
        start: float32 [P, classes, K], or None for 0.
        tolerance: How far above the minimum the model of the curvature may still see the
            objective, relative to it or to its fall from even odds, whichever is less.
        passes: Over the data at most.
    """
    ridge = (penalties.to(z) * (2 if classes == 2 else 1))[:, None].repeat(1, z.shape[1])
    ridge[:, -1] = 0
    size = sum(part.square().sum(dim=0) for part in z.split(MANY)) / len(z)
    assert isinstance(size, Tensor)
    rows = ROWS.get(z.device.type, MANY)
    weight = z.new_zeros(len(ridge), classes, z.shape[1]) if start is None else start.clone()
    weight -= weight.mean(dim=1, keepdim=True)  # what all classes share tells nothing
    found = Fit(weight.clone(), ridge.new_zeros(len(ridge)).double(), ridge[:, 0] < 0)
    pairs: deque[Pair] = deque(maxlen=MEMORY)
    walk = _begin(weight, ridge, lambda w, r: evaluate(z, y, w, r, rows), size)
    for _ in range(passes):
        # Many classes under a strong penalty: nearly all of the objective is there to stay.
        fall = (math.log(classes) - walk.value).maximum(walk.value / 100).minimum(walk.value)
        done = -walk.slope / 2 <= tolerance * fall
        _settle(found, walk.only(done), converged=True)
        if done.any():
            walk = walk.only(~done)
            pairs = deque(((s[~done], c[~done], r[~done]) for s, c, r in pairs), maxlen=MEMORY)
        if not len(walk.problem):
            return found
        walk = _advance(walk, pairs, lambda w, r: evaluate(z, y, w, r, rows), size)
    _settle(found, walk, converged=False)
    return found


def evaluate(
    z: Tensor, y: Tensor, weight: Tensor, ridge: Tensor, rows: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Objective float64 [P], its gradient [P, classes, K], and mean p (1 - p) [P, classes].

    Args:
        z: float32 [N, K]. y: int64 [N].
        weight: float32 [P, classes, K].
        ridge: float32 [P, K], the penalty of each column.
        rows: At once: the largest thing held is [P, classes, rows].
    """
    problems, classes, width = weight.shape
    flat = weight.view(problems * classes, width)
    value = torch.zeros(problems, dtype=torch.float64, device=z.device)
    gradient, spread = torch.zeros_like(flat), z.new_zeros(problems, classes)
    for part, marks in zip(z.split(rows), y.split(rows), strict=True):
        own = marks.expand(problems, 1, len(part))
        p = torch.log_softmax((flat @ part.T).view(problems, classes, len(part)), dim=1)
        log_own = p.gather(1, own)
        p.exp_()
        spread += p.sum(dim=2) - torch.linalg.vector_norm(p, dim=2).square()
        # What the others have, not 1 - p, which near 0 would be rounding alone.
        others = p.scatter_(1, own, 0.0).sum(dim=1, keepdim=True)
        loss = torch.where(others < 0.5, torch.log1p(-others), log_own)
        value -= loss.double().sum(dim=(1, 2))
        p.scatter_(1, own, -others)
        gradient.addmm_(p.view(len(flat), len(part)), part)
    pull = weight * ridge[:, None]
    value = value / len(z) + (pull.double() * weight).sum(dim=(1, 2)) / 2
    return value, gradient.view_as(weight) / len(z) + pull, spread / len(z)


def _settle(found: Fit, walk: _Walk, *, converged: bool) -> None:
    found.weight[walk.problem] = walk.weight
    found.objective[walk.problem] = walk.value
    found.converged[walk.problem] = converged


def _begin(weight: Tensor, ridge: Tensor, evaluate: Evaluate, size: Tensor) -> _Walk:
    value, gradient, spread = evaluate(weight, ridge)
    one, problem = torch.ones_like(ridge[:, 0]), torch.arange(len(ridge), device=ridge.device)
    walk = _Walk(problem, ridge, weight, value, gradient, spread, one, gradient, one, one)
    return _aim(walk, deque(), size)


def _advance(walk: _Walk, pairs: deque[Pair], evaluate: Evaluate, size: Tensor) -> _Walk:
    """One pass: each problem tries its step, and takes it or shortens it."""
    trial = walk.weight + walk.step[:, None, None] * walk.direction
    value, gradient, spread = evaluate(trial, walk.ridge)
    hoped = walk.step * walk.slope
    took = value <= walk.value + 1e-4 * hoped + NOISE * walk.value
    moved = torch.where(took[:, None, None], trial - walk.weight, 0.0)
    change = torch.where(took[:, None, None], gradient - walk.gradient, 0.0)
    bend = _dot(moved, change)
    bends = bend > 1e-30
    inverse = torch.where(bends, 1 / bend, 0.0)  # a pair of nothing changes nothing
    if took.any():
        pairs.append((moved, change, inverse))
        natural = bend / _dot(change, _scaled(change, spread, size, walk.ridge))
        walk = replace(walk, gamma=torch.where(bends, natural, walk.gamma))
    # Where a parabola through what is known has its minimum.
    rise = 2 * (value - walk.value - hoped)
    lowest = (-hoped * walk.step / rise.clamp(min=1e-30)).float().nan_to_num(0)
    shorter = torch.minimum(torch.maximum(lowest, walk.step / 10), walk.step / 2)
    here = took[:, None, None]
    after = replace(
        walk,
        weight=torch.where(here, trial, walk.weight),
        value=torch.where(took, value, walk.value),
        gradient=torch.where(here, gradient, walk.gradient),
        spread=torch.where(took[:, None], spread, walk.spread),
    )
    aimed = _aim(after, pairs, size)
    return replace(
        aimed,
        direction=torch.where(here, aimed.direction, walk.direction),
        slope=torch.where(took, aimed.slope, walk.slope),
        step=torch.where(took, 1.0, shorter),
    )


def _aim(walk: _Walk, pairs: deque[Pair], size: Tensor) -> _Walk:
    """The direction of L-BFGS by its two loops over the pairs."""
    toward, shares = walk.gradient.clone(), []
    for moved, change, inverse in reversed(pairs):
        share = inverse * _dot(moved, toward)
        shares.append(share)
        toward -= share[:, None, None] * change
    toward = _scaled(toward, walk.spread, size, walk.ridge) * walk.gamma[:, None, None]
    for (moved, change, inverse), share in zip(pairs, reversed(shares), strict=True):
        toward += (share - inverse * _dot(change, toward))[:, None, None] * moved
    return replace(walk, direction=-toward, slope=-_dot(toward, walk.gradient))


def _scaled(gradient: Tensor, spread: Tensor, size: Tensor, ridge: Tensor) -> Tensor:
    """A gradient over the diagonal of the curvature; what all classes share taken out again."""
    scaled = gradient / (spread.clamp(min=1e-6)[:, :, None] * size + ridge[:, None])
    return scaled - scaled.mean(dim=1, keepdim=True)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return torch.linalg.vecdot(one.flatten(1), other.flatten(1))
