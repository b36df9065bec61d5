"""Linear probe as papers train it: SGD on frozen features of augmented views.

One linear layer for each learning rate of a grid, side by side in one pass over the features. The
rate is chosen on samples that are not test; its layer then meets the test samples once.
Source: Chen & He 2021, "SimSiam", arXiv:2011.10566, App. A, and Caron et al. 2021, "DINO",
arXiv:2104.14294, App. F.2, for the sweep: momentum 0.9, no weight decay, rates in proportion to
the batch and on half a cosine from epoch to epoch.
Differs: the papers choose the rate on the samples that they report.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from clctl.rng import generator

RATES = (1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # per 256 views of a batch
MOMENTUM, STD = 0.9, 0.01  # STD is of fresh weights


@dataclass(frozen=True)
class Graded:
    """What a probe gave.

    Attributes:
        scores: float32 [M, classes] on the CPU, probabilities of the test samples.
        rate: The chosen one, per 256 views of a batch.
        held_out: Top-1 of each rate on the samples it was chosen on, without those that diverged.
    """

    scores: Tensor
    rate: float
    held_out: dict[float, float]


def sgd(
    epochs_of: Callable[[int], Iterator[tuple[Tensor, Tensor]]],
    held: tuple[Tensor, Tensor],
    test: Tensor,
    *,
    classes: int,
    batch: int,
    epochs: int = 100,
    rates: Sequence[float] = RATES,
    seed: int = 0,
) -> Graded:
    """Train a layer at each rate, choose one on `held`, score `test` with it.

    Everything is float32 (or float64) and on one device; labels are int64 in [0, classes).

    Args:
        epochs_of: Epoch, from 0 -> the batches of it: features [B, D] of views, labels [B].
        held: Features [H, D] and labels [H] to choose the rate on; ties go to the lower.
        test: Features [M, D].
        batch: Views of a whole batch; a layer of rate r starts at r * batch / 256.

    Raises:
        ValueError: There is no rate, no epoch, nothing to train or to choose on, a rate is not
            positive, or the layers of all rates diverged.
    """
    rates = sorted(set(rates))
    if not rates or not 0 < rates[0] <= rates[-1] < math.inf:
        raise ValueError(f"learning rates must be positive numbers, not {rates}")
    if not len(held[1]):
        raise ValueError("no sample is held out to choose the learning rate on")
    peaks = torch.tensor(rates, dtype=test.dtype, device=test.device) * (batch / 256)
    weight, bias = _train(epochs_of, test, classes, peaks, epochs, seed)
    held_out = {}
    for i, rate in enumerate(rates):  # one at a time: together their logits may not fit
        logits = F.linear(held[0], weight[i], bias[i])
        if logits.isfinite().all():
            held_out[rate] = float((logits.argmax(dim=1) == held[1]).double().mean())
    if not held_out:
        raise ValueError(
            f"the linear layers of all learning rates diverged, {rates[0]:g} and above; "
            "take lower ones, or scale the features down"
        )
    rate = max(held_out, key=lambda r: held_out[r])  # the first, lowest, of several
    chosen = rates.index(rate)
    scores = F.linear(test, weight[chosen], bias[chosen]).softmax(dim=1)
    return Graded(scores.float().cpu(), rate, held_out)


@torch.no_grad()
def _train(
    epochs_of: Callable[[int], Iterator[tuple[Tensor, Tensor]]],
    like: Tensor,
    classes: int,
    peaks: Tensor,
    epochs: int,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Weights [P, classes, D] and biases [P, classes] of the layers of P rates.

    Each layer sees its own loss only, so that one that overflows leaves the others alone.
    """
    count, width = len(peaks), like.shape[1]
    start = torch.randn(classes, width, generator=generator(seed, "sgd probe")) * STD
    weight = start.to(like).repeat(count, 1)  # [P * classes, D], all layers start alike
    bias = torch.zeros_like(weight[:, 0])
    speed, drift = torch.zeros_like(weight), torch.zeros_like(bias)
    steps = 0
    for epoch in range(epochs):
        share = (1 + math.cos(math.pi * epoch / epochs)) / 2
        rate = (peaks * share).repeat_interleave(classes)  # [P * classes]
        for x, y in epochs_of(epoch):
            p = F.linear(x, weight, bias).unflatten(1, (count, classes)).softmax(dim=2)
            # The gradient of cross-entropy's mean over the batch, written out: to each layer by
            # its logits, (softmax - one-hot) / B.
            slope = ((p - F.one_hot(y, classes)[:, None]) / len(y)).flatten(1)
            speed.mul_(MOMENTUM).addmm_(slope.T, x)
            drift.mul_(MOMENTUM).add_(slope.sum(dim=0))
            weight.addcmul_(speed, rate[:, None], value=-1)
            bias.addcmul_(drift, rate, value=-1)
            steps += 1
    if not steps:
        raise ValueError("the linear probe got no batch to train on")
    return weight.unflatten(0, (count, classes)), bias.unflatten(0, (count, classes))
