"""The scores of a run's evaluations, as rows beside what they must beat."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clctl.store import documents, reading

# Metric that stands for a command: its interval, which the document has at the top.
_METRICS = {"top1": "top1_ci95", "recall_at_1": "recall_at_1_ci95"}
_SETTINGS = ("name", "k", "temperature", "penalty")  # of a protocol, told where there is one value


@dataclass(frozen=True)
class Row:
    """One score.

    Attributes:
        protocol: The command that gave it and its settings, in words.
        data: Data set and part.
        images: How many it is over.
        metric: Its name.
        value: In [0, 1].
        interval: Within which it is at 95 %.
        beside: The same metric of "chance", "random_init" and "pixels", where it is known.
    """

    protocol: str
    data: str
    images: int
    metric: str
    value: float
    interval: tuple[float, float]
    beside: dict[str, float]


def rows(evaluations: Path, sha256: str) -> tuple[Row, ...]:
    """The scores of exactly these weights, in the order of the files' names.

    Args:
        evaluations: A run's folder of that name; none there is no score.
        sha256: Of the checkpoint's file, in hex. A run goes on, and older scores are not its.

    Raises:
        Problem: Exit.CHECKPOINT if a document is damaged.
    """
    names = [name for name in reading.names(evaluations) if name.endswith(".json")]
    found = [documents.read(evaluations / name, "run.damaged") for name in names]
    ours = [document for document in found if weights(document) == sha256]
    return tuple(made for document in ours if (made := row(document)) is not None)


def weights(document: dict[str, Any]) -> str | None:
    """The sha256 of the weights that a document is of, where it says so."""
    checkpoint = document.get("checkpoint")
    return checkpoint.get("sha256") if isinstance(checkpoint, dict) else None


def row(document: dict[str, Any]) -> Row | None:
    """The row of a document of an evaluation; None where it is no score with an interval."""
    try:
        metric = next(name for name in _METRICS if name in document["metrics"])
        low, high = document[_METRICS[metric]]
        data = document["data"]
        return Row(
            protocol=_protocol(document),
            data=f"{data['name']} {data['test']}",
            images=data["test_images"],
            metric=metric,
            value=float(document["metrics"][metric]),
            interval=(float(low), float(high)),
            beside=_beside(document["baselines"], metric),
        )
    except (KeyError, TypeError, ValueError, StopIteration):
        return None


def _protocol(document: dict[str, Any]) -> str:
    command = document["schema"].split("/")[1]
    settings = document["protocol"]
    words = [command]
    for key in _SETTINGS:
        value = settings.get(key)
        if isinstance(value, str):
            words.append(value)
        elif isinstance(value, (int, float)):
            words.append(f"{key} {value:g}")
    return ", ".join(words)


def _beside(baselines: dict[str, Any], metric: str) -> dict[str, float]:
    """A baseline is the number itself, or all its metrics."""
    known = {name: baselines.get(name) for name in ("chance", "random_init", "pixels")}
    numbers = {n: v.get(metric) if isinstance(v, dict) else v for n, v in known.items()}
    return {name: value for name, value in numbers.items() if value is not None}
