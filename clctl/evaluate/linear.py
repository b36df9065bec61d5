"""Linear probe: multinomial logistic regression on frozen, standardised features.

The weight of the L2 penalty is chosen on samples that are not test; the chosen model is then
fitted on all training samples and meets the test samples once.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.preprocessing import StandardScaler

PENALTIES = (1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5)  # per sample: loss mean + penalty / 2 |w|²
ITERATIONS = 150


@dataclass(frozen=True)
class Probe:
    """What a probe gave.

    Attributes:
        scores: float32 [M, classes], probabilities of the test samples.
        penalty: The chosen weight, or the median over folds.
        held_out: Top-1 of each penalty on the samples it was chosen on.
        converged: Whether the final fit reached its tolerance within ITERATIONS.
    """

    scores: np.ndarray
    penalty: float
    held_out: dict[float, float]
    converged: bool


def linear(
    x: np.ndarray,
    y: np.ndarray,
    test: np.ndarray,
    *,
    classes: int,
    choose: tuple[np.ndarray, np.ndarray] | None = None,
) -> Probe:
    """Fit on (x, y), score `test`.

    Args:
        x: float32 [N, D]. y: int64 [N] in [0, classes).
        test: float32 [M, D].
        choose: Samples to choose the penalty on; None holds out a tenth of (x, y).

    Raises:
        ValueError: If y has fewer than two classes, or nothing can be held out.
    """
    if len(np.unique(y)) < 2:
        raise ValueError("a linear probe needs training labels of at least two classes")
    if choose is None:
        fit, held = _tenth(y)
        held_out = _sweep(x[fit], y[fit], x[held], y[held])
    else:
        held_out = _sweep(x, y, *choose)
    # Ties go to the stronger penalty, which stands first.
    penalty = max(held_out, key=lambda p: held_out[p])
    scaler = StandardScaler().fit(x)
    path = _path(np.asarray(scaler.transform(x)), y)
    model, converged = next((model, ok) for at, model, ok in path if at == penalty)
    scores = _spread(model, np.asarray(scaler.transform(test)), classes)
    return Probe(scores, penalty, held_out, converged)


def folds(x: np.ndarray, y: np.ndarray, *, classes: int, count: int = 5) -> Probe:
    """Stratified cross-validation: every sample is scored once, by a fit that never saw it.

    Raises:
        ValueError: If the rarest class has fewer samples than folds.
    """
    rarest = int(np.bincount(y).min(initial=len(y), where=np.bincount(y) > 0))
    if rarest < count:
        raise ValueError(f"{count} folds need {count} samples of every class, one has {rarest}")
    scores = np.zeros((len(y), classes), dtype=np.float32)
    chosen, held, converged = [], [], True
    for fit, out in StratifiedKFold(count, shuffle=True, random_state=0).split(x, y):
        probe = linear(x[fit], y[fit], x[out], classes=classes)
        scores[out] = probe.scores
        chosen.append(probe.penalty)
        held.append(probe.held_out)
        converged &= probe.converged
    mean = {p: float(np.mean([h[p] for h in held])) for p in PENALTIES}
    return Probe(scores, float(np.median(chosen)), mean, converged)


def _tenth(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of nine tenths and one tenth, stratified; the only sample of a class is fitted."""
    rows = np.arange(len(y))
    several = rows[np.bincount(y)[y] >= 2]
    if not len(several):
        raise ValueError("no class has two training samples, one to fit and one to hold out")
    count = max(round(len(several) / 10), len(np.unique(y[several])))
    _, out = train_test_split(several, test_size=count, stratify=y[several], random_state=0)
    return np.setdiff1d(rows, out), np.sort(out)


def _sweep(
    x: np.ndarray, y: np.ndarray, held_x: np.ndarray, held_y: np.ndarray
) -> dict[float, float]:
    """Top-1 of each penalty on the held-out samples."""
    scaler = StandardScaler().fit(x)
    x, held_x = np.asarray(scaler.transform(x)), np.asarray(scaler.transform(held_x))
    return {
        penalty: float(np.mean(np.equal(model.predict(held_x), held_y)))
        for penalty, model, _ in _path(x, y)
    }


def _path(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[float, LogisticRegression, bool]]:
    """One model, fitted to each penalty from the strong end; each solution starts the next."""
    model = LogisticRegression(max_iter=ITERATIONS, warm_start=True)
    for penalty in PENALTIES:
        model.set_params(C=1 / (penalty * len(y)))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.fit(x, y)
        yield penalty, model, not any(issubclass(w.category, ConvergenceWarning) for w in caught)


def _spread(model: LogisticRegression, x: np.ndarray, classes: int) -> np.ndarray:
    """Probabilities over all classes; those that training lacked get zero."""
    scores = np.zeros((len(x), classes), dtype=np.float32)
    scores[:, model.classes_] = model.predict_proba(x)
    return scores
