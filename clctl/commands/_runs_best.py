"""The best of several runs, among scores of the same images by the same protocol."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clctl.commands._report_read import at, number, pair, words
from clctl.commands._runs_read import evaluation


@dataclass(frozen=True)
class Scored:
    """One run in one evaluation.

    Attributes:
        interval: At 95 %, None where the evaluation has none for the metric.
        step: Of the checkpoint that was scored.
    """

    path: Path
    value: float
    interval: tuple[float, float] | None
    step: int | None


@dataclass(frozen=True)
class Group:
    """Runs that can be compared, the best first.

    Attributes:
        protocol: The name that their evaluations have, which tells command, data and settings.
        data, fingerprint: Of the images.
        at: When the newest of the evaluations was written, in seconds.
    """

    protocol: str
    data: str
    fingerprint: str
    images: int
    at: float
    runs: tuple[Scored, ...]


def groups(folders: Sequence[Path], metric: str) -> list[Group]:
    """All evaluations that have the metric, by images and protocol; most runs first."""
    found: dict[tuple[str, str, int], list[tuple[float, str, Scored]]] = {}
    for folder in folders:
        for path in sorted((folder / "evaluations").glob("*.json")):
            document = evaluation(path)
            value = number(at(document, "metrics", metric))
            fingerprint, images = (at(document, "data", k) for k in ("fingerprint", "test_images"))
            if value is None or not isinstance(fingerprint, str) or type(images) is not int:
                continue
            key = path.stem, fingerprint, images
            scored = Scored(folder, value, _interval(document, metric), _step(document))
            name = f"{words(at(document, 'data', 'name'))} {words(at(document, 'data', 'test'))}"
            found.setdefault(key, []).append((path.stat().st_mtime, name, scored))
    made = [
        Group(
            protocol=protocol,
            data=members[0][1],
            fingerprint=fingerprint,
            images=images,
            at=max(m[0] for m in members),
            runs=tuple(sorted((m[2] for m in members), key=lambda s: -s.value)),
        )
        for (protocol, fingerprint, images), members in found.items()
    ]
    return sorted(made, key=lambda g: (-len(g.runs), -g.at, g.protocol))


def metrics(folders: Sequence[Path]) -> list[str]:
    """The names of all metrics in the evaluations."""
    paths = [path for folder in folders for path in (folder / "evaluations").glob("*.json")]
    found = [evaluation(path).get("metrics") for path in paths]
    return sorted({name for one in found if isinstance(one, dict) for name in one})


def overlap(group: Group) -> bool | None:
    """Whether the intervals of the two best overlap; None where that cannot be told."""
    if len(group.runs) < 2:
        return None
    best, next_ = (scored.interval for scored in group.runs[:2])
    return None if best is None or next_ is None else best[0] <= next_[1]


def document(group: Group) -> dict[str, Any]:
    """A group as JSON values."""
    return {
        "protocol": group.protocol,
        "data": group.data,
        "fingerprint": group.fingerprint,
        "images": group.images,
        "overlap": overlap(group),
        "runs": [
            {
                "path": str(scored.path),
                "value": scored.value,
                "ci95": scored.interval,
                "step": scored.step,
            }
            for scored in group.runs
        ],
    }


def _interval(document: dict[str, Any], metric: str) -> tuple[float, float] | None:
    return pair(document.get(f"{metric}_ci95"))


def _step(document: dict[str, Any]) -> int | None:
    found = at(document, "checkpoint", "step")
    return found if type(found) is int else None
