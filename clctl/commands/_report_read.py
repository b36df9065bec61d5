"""A run's folder for its report page: whatever of it can be read, and why the rest cannot."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clctl.console import Exit, Problem
from clctl.store import checkpoint, documents, reading
from clctl.store.run import Run

SIGNS = ("run.json", "recipe.resolved.json", "metrics.jsonl", "report.json", "checkpoints")
"""What makes a folder a run: one of these is enough."""


@dataclass(frozen=True)
class Seen:
    """A run as it lies there; what is missing or damaged is empty here.

    Attributes:
        name: The folder's.
        state, recipe, outcome: run.json, recipe.resolved.json, report.json.
        records: metrics.jsonl.
        manifest: Of the newest checkpoint.
        scores: Each document of evaluations/, by its file's name, in the order of the names.
        lost: What could not be read, by its name in the folder, and why.
    """

    folder: Path
    name: str
    state: dict[str, Any]
    recipe: dict[str, Any]
    outcome: dict[str, Any]
    records: list[dict[str, Any]]
    manifest: dict[str, Any]
    scores: dict[str, dict[str, Any]]
    lost: dict[str, str]

    @property
    def total(self) -> int | None:
        """Steps of the whole run, where log and recipe tell them."""
        epochs, last = number(at(self.recipe, "train", "epochs")), self.last
        epoch = number(last.get("epoch"))
        return round(epochs * last["step"] / epoch) or None if epochs and epoch else None

    @property
    def last(self) -> dict[str, Any]:
        """The newest record of the log."""
        return self.records[-1] if self.records else {}

    @property
    def status(self) -> str:
        """What run.json says: "done", "running", "stopped by ...", "failed: code"; "" if nothing."""
        return words(self.state.get("status"))

    @property
    def data(self) -> str:
        """The name of the data: that of the folder where it is one."""
        named = at(self.manifest, "data", "name"), at(self.recipe, "data", "name")
        return words(named[0]) or words(named[1])

    @property
    def weights(self) -> str | None:
        """The sha256 of the newest checkpoint's model."""
        return at(self.manifest, "files", checkpoint.MODEL, "sha256")


def read(folder: Path) -> Seen:
    """Read all that is there.

    Raises:
        Problem: Exit.CHECKPOINT if it is no run at all.
    """
    if not folder.exists():
        raise Problem(
            f"{folder} does not exist",
            Exit.CHECKPOINT,
            "checkpoint.not-found",
            "name the folder of a run, such as runs/byol-1f6c2a90",
        )
    if not folder.is_dir() or not set(SIGNS) & set(reading.names(folder)):
        raise Problem(
            f"{folder} is not a run: it has none of {', '.join(SIGNS)}",
            Exit.CHECKPOINT,
            "run.none",
            "name the folder of a run, such as runs/byol-1f6c2a90",
        )
    run, lost = Run(folder), dict[str, str]()

    def whole(name: str, read: Callable[[], Any], empty: Any) -> Any:
        try:
            found = read()
        except Problem as problem:
            lost[name] = problem.message.replace(f"{folder}/", "")
            return empty
        if not found:
            lost[name] = f"{name} is missing" if found is None else f"{name} is empty"
        return found or empty

    def manifest() -> dict[str, Any] | None:
        steps = checkpoint.steps(folder)
        if not steps:
            return None
        newest = run.checkpoints / f"step-{max(steps):08d}"
        return _document(newest / checkpoint.MANIFEST)

    names = [n for n in reading.names(run.evaluations) if n.endswith(".json")]
    scores = {
        n: whole(f"evaluations/{n}", lambda n=n: _document(run.evaluations / n), {}) for n in names
    }
    return Seen(
        folder=folder,
        name=folder.absolute().name,
        state=whole("run.json", lambda: run.read_json("run.json"), {}),
        recipe=whole("recipe.resolved.json", lambda: run.read_json("recipe.resolved.json"), {}),
        outcome=whole("report.json", lambda: run.read_json("report.json"), {}),
        records=whole("metrics.jsonl", run.records, []),
        manifest=whole("checkpoints", manifest, {}),
        scores={name: document for name, document in scores.items() if document},
        lost=lost,
    )


def _document(path: Path) -> dict[str, Any]:
    try:
        return documents.parse(reading.content(path))
    except ValueError as error:
        message = f"{path} is damaged: {error}"
        raise Problem(message, Exit.CHECKPOINT, "run.damaged") from error


def at(document: Any, *keys: str) -> Any:
    """The value below these keys, None where there is none."""
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return document


def number(value: Any) -> float | None:
    """A finite number as it is, None for all else."""
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if real and abs(value) < 1e300 and math.isfinite(value) else None


def pair(value: Any) -> tuple[float, float] | None:
    """Two finite numbers, such as an interval; None for all else."""
    if not isinstance(value, list) or len(value) != 2:
        return None
    low, high = map(number, value)
    return None if low is None or high is None else (low, high)


def words(value: Any) -> str:
    """Text as it is, nothing for all else."""
    return value if isinstance(value, str) else ""
