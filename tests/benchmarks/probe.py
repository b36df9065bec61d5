"""The linear probe's sweep of 13 penalties beside three fits of scikit-learn, one after the other.

    python tests/benchmarks/probe.py [ROUNDS] [THREADS]

Made features that look like an encoder's, 50,000 x 512 to fit and 10,000 to score, 10 classes:
rectified, variances by a power law, classes that overlap; and the same with heavy tails. Seconds
are wall-clock, medians over interleaved rounds, same threads. Ours count standardising, turning,
and all fits of the sweep; scikit-learn's count LogisticRegression alone (lbfgs, default tol,
max_iter 1000, float32, standardised before) at the strongest, the middle and the weakest penalty.
"""

import sys
import time
from statistics import median

import torch
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor

from clctl.evaluate.axes import fit_axes, turn
from clctl.evaluate.linear import PENALTIES, ROUGH
from clctl.evaluate.logistic import minimise
from clctl.rng import generator

FIT, TEST, WIDTH, CLASSES = 50_000, 10_000, 512, 10
THREE = PENALTIES[::6]
NAMES = ("plain", "heavy tails")
SEPARATION = 0.18  # of the classes: best accuracy about 0.76


def features(tails: bool) -> tuple[Tensor, Tensor]:
    """float32 [60,000, 512], none below 0, and int64 labels."""
    draw = generator("probe benchmark")
    y = torch.randint(CLASSES, (FIT + TEST,), generator=draw)
    scale = torch.arange(1, WIDTH + 1) ** -0.5
    centres = SEPARATION * torch.randn(CLASSES, WIDTH, generator=draw)
    hidden = (centres[y] + torch.randn(len(y), WIDTH, generator=draw)) * scale
    mixed = hidden @ torch.randn(WIDTH, WIDTH, generator=draw) / scale.norm()
    x = torch.relu(mixed - 0.3 + 0.05 * torch.randn(len(y), WIDTH, generator=draw))
    if tails:
        x *= torch.exp(0.7 * torch.randn(len(y), 1, generator=draw))
        x *= torch.exp(torch.randn(WIDTH, generator=draw))
    return x, y


def ours(x: Tensor, y: Tensor) -> tuple[float, list[float]]:
    """Seconds of the sweep, and the accuracy of each penalty."""
    begun = time.perf_counter()
    axes = fit_axes(x[:FIT])
    z = turn(axes, x[:FIT])
    fit = minimise(z, y[:FIT], torch.tensor(PENALTIES), classes=CLASSES, tolerance=ROUGH)
    spent = time.perf_counter() - begun
    logits = turn(axes, x[FIT:]) @ fit.weight.mT
    return spent, (logits.argmax(dim=2) == y[FIT:]).double().mean(dim=1).tolist()


def theirs(x: Tensor, y: Tensor, penalties: tuple[float, ...]) -> tuple[float, list[float]]:
    """Seconds of the fits, and the accuracy of each penalty."""
    standard = ((x - x[:FIT].mean(dim=0)) / x[:FIT].std(dim=0, correction=0)).numpy()
    spent, accuracies = 0.0, []
    for penalty in penalties:
        model = LogisticRegression(C=1 / (penalty * FIT), max_iter=1000)
        begun = time.perf_counter()
        model.fit(standard[:FIT], y[:FIT].numpy())
        spent += time.perf_counter() - begun
        accuracies.append(float(model.score(standard[FIT:], y[FIT:].numpy())))
    return spent, accuracies


def main(rounds: int) -> None:
    """Measure and print three lines per kind of features."""
    for name in NAMES:
        x, y = features(name == "heavy tails")
        sweeps, fits, accuracies = [], [], [0.0]
        for _ in range(rounds):
            spent, accuracies = ours(x, y)
            sweeps.append(spent)
            fits.append(theirs(x, y, THREE)[0])
        # Near the best of ours, to compare the best with the best.
        top = accuracies.index(max(accuracies))
        near = PENALTIES[max(top - 1, 0) : top + 2]
        best = max(theirs(x, y, near)[1])
        print(
            f"{name}: 13 penalties {median(sweeps):.2f} s ({min(sweeps):.2f}-{max(sweeps):.2f}), "
            f"3 of scikit-learn {median(fits):.2f} s ({min(fits):.2f}-{max(fits):.2f}), "
            f"ratio {median(sweeps) / median(fits):.2f}\n"
            f"  best accuracy {max(accuracies):.4f}, of scikit-learn {best:.4f}\n"
            f"  of each penalty {' '.join(f'{a:.3f}' for a in accuracies)}",
            flush=True,
        )


if __name__ == "__main__":
    threads = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    torch.set_num_threads(threads)
    with threadpool_limits(threads):
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
