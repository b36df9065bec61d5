"""--fail-under: the least value of a metric with which a command succeeds."""

from dataclasses import dataclass
from typing import Any

from clctl.console import Exit, Problem

TOP = ("top1", "top5", "balanced_accuracy")  # what a classifier's score may be held to


@dataclass(frozen=True)
class Gate:
    """A metric and its least value, in [0, 1]."""

    metric: str
    minimum: float


def gate(text: str | None, known: tuple[str, ...]) -> Gate | None:
    """--fail-under, read: a metric and its least value.

    Raises:
        Problem: If it is not of that form, or the metric is not one of `known`.
    """
    if text is None:
        return None
    name, _, number = text.partition("=")
    try:
        minimum = float(number)
    except ValueError:
        minimum = -1.0
    if name not in known or not 0 <= minimum <= 1:
        raise Problem(
            f"--fail-under {text} is not METRIC=SHARE with a share in [0, 1] "
            f"and a metric of {', '.join(known)}",
            Exit.USAGE,
            "usage.gate",
            f"--fail-under {known[0]}=0.70",
        )
    return Gate(name, minimum)


def passed(threshold: Gate | None, document: dict[str, Any]) -> bool:
    """Whether the gate is met; the report says which it was.

    Raises:
        Problem: If this score has no such metric: top-5 of five classes.
    """
    if threshold is None:
        return True
    name, minimum = threshold.metric, threshold.minimum
    if name not in document["metrics"]:
        raise Problem(
            f"--fail-under {name}: this score has {', '.join(document['metrics'])}",
            Exit.USAGE,
            "usage.gate",
        )
    met = document["metrics"][name] >= minimum
    document["gate"] = {"metric": name, "minimum": minimum, "met": met}
    return met
