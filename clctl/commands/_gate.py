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


def gate(
    text: str | None, known: tuple[str, ...], flag: str = "--fail-under", example: str = "0.70"
) -> Gate | None:
    """--fail-under or another flag of that form, read: a metric and its least value.

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
            f"{flag} {text} is not METRIC=SHARE with a share in [0, 1] "
            f"and a metric of {', '.join(known)}",
            Exit.USAGE,
            "usage.gate",
            f"{flag} {known[0]}={example}",
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
