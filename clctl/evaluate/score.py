"""Accuracy with its interval."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Score:
    """Accuracy of predictions.

    Attributes:
        metrics: "top1", and "top5" where there are more than five classes; in [0, 1].
        interval: Wilson's 95 % interval of top-1.
        predictions: int64 [M], the most probable class of each sample.
    """

    metrics: dict[str, float]
    interval: tuple[float, float]
    predictions: Tensor


def score(votes: Tensor, labels: Tensor) -> Score:
    """Score votes or probabilities [M, classes] against labels int64 [M].

    Raises:
        ValueError: If there is no sample.
    """
    if not len(labels):
        raise ValueError("no sample to score")
    order = votes.argsort(dim=1, descending=True, stable=True)
    # A class without any vote was not named: ties at zero would favour the first classes.
    hits = (order == labels[:, None]) & (votes.gather(1, order) > 0)
    right = int(hits[:, 0].sum())
    metrics = {"top1": right / len(labels)}
    if votes.shape[1] > 5:
        metrics["top5"] = int(hits[:, :5].any(dim=1).sum()) / len(labels)
    return Score(metrics, wilson(right, len(labels)), order[:, 0].clone())


def wilson(right: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share `right / total`.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22(158), p. 209.
    """
    share = right / total
    scale = 1 + z * z / total
    middle = (share + z * z / (2 * total)) / scale
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / scale
    return max(0.0, middle - half), min(1.0, middle + half)


def chance(labels: Tensor, classes: int) -> dict[str, float]:
    """Top-1 of guessing evenly, and of always naming the most frequent class."""
    return {"chance": 1 / classes, "majority": int(torch.bincount(labels).max()) / len(labels)}
