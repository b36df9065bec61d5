"""Linear probe: multinomial logistic regression on frozen, standardised features.

The weight of the L2 penalty is chosen on samples that are not test, all weights fitted together;
the chosen model is then fitted on all training samples and meets the test samples once.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clctl.evaluate.axes import Axes, carry, fit_axes, turn, widen
from clctl.evaluate.logistic import minimise
from clctl.evaluate.subset import held_out

# Per sample: loss mean + penalty / 2 |w|², the bias free. Half decades.
FOLDS = 5  # of cross-validation, where test is all there is
PENALTIES = (1.0, 0.316, 0.1, 0.0316, 0.01, 3.16e-3, 1e-3, 3.16e-4, 1e-4, 3.16e-5, 1e-5, 3.16e-6, 1e-6)  # fmt: skip
ROUGH, FINE = 3e-4, 1e-6  # tolerance of the fits that are compared, and of the one that is kept
ROWS = 1024  # scored at once under all penalties


@dataclass(frozen=True)
class Probe:
    """What a probe gave.

    Attributes:
        scores: float32 [M, classes], probabilities of the test samples, where these were.
        penalty: The chosen weight, or the median over folds.
        held_out: Top-1 of each penalty on the samples it was chosen on.
        converged: Whether the final fit reached its tolerance.
    """

    scores: Tensor
    penalty: float
    held_out: dict[float, float]
    converged: bool


def linear(
    x: Tensor,
    y: Tensor,
    test: Tensor,
    *,
    classes: int,
    choose: tuple[Tensor, Tensor] | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Probe:
    """Fit on (x, y), score `test`.

    Args:
        x: float32 [N, D]. y: int64 [N] in [0, classes).
        test: float32 [M, D].
        choose: Samples to choose the penalty on; None holds out a tenth of (x, y).
        seed: Draws that tenth.
        device: Where to compute; None is where x is.

    Raises:
        ValueError: If y has fewer than two classes or one that is not there, if nothing can be
            held out, or if features are not finite.
    """
    home, device = test.device, torch.device(device or x.device)
    x, y, test = _features(x, "training", device), y.to(device), _features(test, "test", device)
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < classes:
        raise ValueError(f"labels from {int(y.min())} to {int(y.max())} for {classes} classes")
    present, y = y.unique(return_inverse=True)
    if len(present) < 2:
        raise ValueError("a linear probe needs training labels of at least two classes")
    if choose is None:
        fit, held = (rows.to(device) for rows in held_out(y.cpu(), seed))
        held_x, held_y = x[held], y[held]
        axes, weight = _sweep(x[fit], y[fit], len(present))
    else:
        held_x, held_y = _features(choose[0], "choosing", device), choose[1].to(device)
        # A class that training lacks is never right: no index stands for it.
        held_y = torch.where(torch.isin(held_y, present), torch.searchsorted(present, held_y), -1)
        axes, weight = _sweep(x, y, len(present))
    top1 = dict(zip(PENALTIES, _top1(turn(axes, held_x), held_y, weight), strict=True))
    # Ties go to the stronger penalty, which stands first.
    penalty = max(top1, key=lambda p: top1[p])
    begin = weight[PENALTIES.index(penalty)][None]
    final = axes if choose is not None else widen(axes, x)
    fitted = minimise(
        turn(final, x),
        y,
        torch.tensor([penalty]),
        classes=len(present),
        start=begin if choose is not None else carry(begin, axes, final),
        tolerance=FINE,
    )
    scores = torch.zeros(len(test), classes, device=device)
    scores[:, present] = (turn(final, test) @ fitted.weight[0].T).softmax(dim=1)
    return Probe(scores.to(home), penalty, top1, bool(fitted.converged))


def folds(
    x: Tensor,
    y: Tensor,
    *,
    classes: int,
    count: int = FOLDS,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Probe:
    """Stratified cross-validation: every sample is scored once, by a fit that never saw it.

    Args:
        x: float32 [N, D]. y: int64 [N] in [0, classes).
        count: Of folds.
        seed: Draws the folds, and what each holds out.
        device: Where to compute; None is where x is.

    Raises:
        ValueError: If the rarest class has fewer samples than folds, or for what `linear` refuses.
    """
    device = torch.device(device or x.device)
    inside, marks = _features(x, "training", device), y.cpu().numpy()
    rarest = int(np.unique(marks, return_counts=True)[1].min(initial=len(marks)))
    if rarest < count:
        raise ValueError(f"{count} folds need {count} samples of every class, one has {rarest}")
    scores = torch.zeros(len(x), classes, device=x.device)
    probes: list[Probe] = []
    # over a second to import, and pretraining comes by here at its start
    from sklearn.model_selection import StratifiedKFold

    split = StratifiedKFold(count, shuffle=True, random_state=seed).split(marks, marks)
    for fit, out in ((torch.from_numpy(a), torch.from_numpy(b)) for a, b in split):
        train, there = y[fit.to(y.device)], inside[fit.to(device)]
        probe = linear(there, train, inside[out.to(device)], classes=classes, seed=seed)
        scores[out.to(x.device)] = probe.scores.to(x.device)
        probes.append(probe)
    mean = {p: float(np.mean([probe.held_out[p] for probe in probes])) for p in PENALTIES}
    chosen = float(np.median([probe.penalty for probe in probes]))
    return Probe(scores, chosen, mean, all(probe.converged for probe in probes))


def _features(x: Tensor, name: str, device: torch.device) -> Tensor:
    x = x.to(device, torch.float32)
    lost = int((~x.isfinite().all(dim=1)).sum())
    if lost:
        raise ValueError(f"{lost} of {len(x)} {name} rows have features that are not finite")
    return x


def _sweep(x: Tensor, y: Tensor, classes: int) -> tuple[Axes, Tensor]:
    """The axes of (x, y), and along them the weight [P, classes, K] of every penalty."""
    axes = fit_axes(x)
    every = torch.tensor(PENALTIES)
    return axes, minimise(turn(axes, x), y, every, classes=classes, tolerance=ROUGH).weight


def _top1(z: Tensor, y: Tensor, weight: Tensor) -> list[float]:
    """Share of z [M, K] that each weight [P, classes, K] puts first in the class it has."""
    right = torch.zeros(len(weight), dtype=torch.int64, device=z.device)
    for part, marks in zip(z.split(ROWS), y.split(ROWS), strict=True):
        logits = (weight.flatten(0, 1) @ part.T).view(*weight.shape[:2], len(part))
        right += (logits.argmax(dim=1) == marks).sum(dim=1)
    return (right.double() / len(z)).tolist()
