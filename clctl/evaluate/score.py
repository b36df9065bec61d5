"""Accuracy with its interval, over all classes and class by class."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clctl.evaluate.intervals import wilson


@dataclass(frozen=True)
class Score:
    """Accuracy of predictions.

    Attributes:
        metrics: "top1", "balanced_accuracy" (the mean recall of the classes that occur), and
            "top5" where there are more than five classes; in [0, 1].
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
    metrics = {"top1": right / len(labels), "balanced_accuracy": _balanced(hits[:, 0], labels)}
    if votes.shape[1] > 5:
        metrics["top5"] = int(hits[:, :5].any(dim=1).sum()) / len(labels)
    return Score(metrics, wilson(right, len(labels)), order[:, 0].clone())


def _balanced(right: Tensor, labels: Tensor) -> float:
    images = torch.bincount(labels)
    hits = torch.bincount(labels[right], minlength=len(images))
    occurs = images > 0
    return float((hits[occurs].double() / images[occurs]).mean())


def confusion(predictions: Tensor, labels: Tensor, count: int) -> Tensor:
    """How often each class was taken for each: int64 [count, count], rows are the truth.

    Args:
        predictions: int64 [M], the class named for each image.
        labels: int64 [M], the class of each image.
        count: Number of classes.

    Raises:
        ValueError: If lengths differ or a class is outside [0, count).
    """
    if predictions.shape != labels.shape or labels.dim() != 1:
        shapes = f"{list(predictions.shape)} and {list(labels.shape)}"
        raise ValueError(f"not one prediction per label: {shapes}")
    both = torch.cat([predictions, labels])
    if len(both) and (int(both.min()) < 0 or int(both.max()) >= count):
        raise ValueError(f"classes {int(both.min())} to {int(both.max())}, of {count}")
    return torch.bincount(labels * count + predictions, minlength=count**2).view(count, count)


def per_class(predictions: Tensor, labels: Tensor, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Recall and precision of every class, in the order of `classes`.

    Args:
        predictions: int64 [M], the class named for each image.
        labels: int64 [M], the class of each image.
        classes: Names of the classes.

    Returns:
        "class", "images" (of that class), "recall" (None if it has no image) and "precision"
        (None if it was never named) of each; shares in [0, 1].

    Raises:
        ValueError: As `confusion`.
    """
    table = confusion(predictions, labels, len(classes))
    counts = zip(
        classes,
        table.diagonal().tolist(),
        table.sum(dim=1).tolist(),
        table.sum(dim=0).tolist(),
        strict=True,
    )
    return [
        {
            "class": name,
            "images": images,
            "recall": right / images if images else None,
            "precision": right / named if named else None,
        }
        for name, right, images, named in counts
    ]


def chance(labels: Tensor, classes: int) -> dict[str, float]:
    """Top-1 of guessing evenly, and of always naming the most frequent class."""
    return {"chance": 1 / classes, "majority": int(torch.bincount(labels).max()) / len(labels)}
