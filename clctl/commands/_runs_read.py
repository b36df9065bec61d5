"""A folder of runs, read fast: the state, figures and size of each. No torch here."""

import fcntl
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import Any

from clctl.commands._report_read import SIGNS, at, number, pair, words
from clctl.console import Exit, Problem
from clctl.store import checkpoint, documents, reading
from clctl.store.run import Run

TAIL = 1 << 16  # bytes of the log that surely hold its last line


@dataclass(frozen=True)
class Row:
    """One run as it lies there; what is not known is None or "".

    Attributes:
        state: running, done, stopped, failed, collapsed, unfinished (killed, or the machine went
            down) or broken (something in the folder cannot be read).
        why: More words on that.
        step, total: Steps done, and of the whole run.
        top1, interval: The score of the run's own report, else of its newest evaluation.
        scored: What that score is, in words.
        bytes: On disk.
        when: When it was begun, in UTC.
    """

    path: Path
    state: str
    why: str
    method: str
    encoder: str
    data: str
    seed: int | None
    step: int | None
    total: int | None
    top1: float | None
    interval: tuple[float, float] | None
    scored: str
    bytes: int
    when: datetime

    @property
    def said(self) -> str:
        """The state in a few words."""
        if self.state == "stopped" and self.step is not None:
            of = f" of {self.total:,}" if self.total is not None else ""
            return f"stopped at step {self.step:,}{of}"
        return f"{self.state}: {self.why}" if self.state in ("failed", "broken") else self.state


def folders(home: Path) -> list[Path]:
    """The runs in a folder; a link is none.

    Raises:
        Problem: Exit.USAGE if there is no such folder, or it is itself a run.
    """
    if not home.is_dir():
        raise Problem(
            f"{home} is no folder",
            Exit.USAGE,
            "runs.no-folder",
            "name the folder that your runs lie in, or begin one: clctl pretrain byol",
        )
    inside = reading.names(home)
    if set(SIGNS) & set(inside):
        raise Problem(
            f"{home} is a run, not a folder of runs",
            Exit.USAGE,
            "runs.one",
            f"clctl runs show {quote(str(home))}, or clctl runs ls {quote(str(home.absolute().parent))}",
        )
    paths = [home / name for name in inside]
    return [path for path in paths if not path.is_symlink() and _looks(path)]


def rows(home: Path) -> list[Row]:
    """All runs of a folder, the one begun last first.

    Raises:
        Problem: As `folders` does.
    """
    return sorted(map(row, folders(home)), key=lambda r: (r.when, r.path.name), reverse=True)


def row(folder: Path, ours: bool = False) -> Row:
    """One run; nothing that is wrong with it is raised.

    Args:
        ours: Whether this process holds the run.
    """
    faults: list[str] = []

    def tried(read: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
        try:
            return read() or {}
        except Problem as problem:
            faults.append(problem.message.replace(f"{folder}/", ""))
            return {}

    run = Run(folder)
    state = tried(lambda: run.read_json("run.json"))
    recipe = tried(lambda: run.read_json("recipe.resolved.json"))
    outcome = tried(lambda: run.read_json("report.json"))
    last = tried(lambda: last_record(folder / checkpoint.LOG))
    if not state and not faults:
        faults.append("run.json is missing")
    word, why = _state(words(state.get("status")), faults)
    if word != "done" and not ours and held(folder):
        word, why = "running", ""
    step = number(outcome.get("steps")) or number(state.get("step")) or number(last.get("step"))
    score, scored = (outcome, "kNN at the end") if top1(outcome) is not None else newest(folder)
    return Row(
        path=folder,
        state=word,
        why=why,
        method=words(at(recipe, "method", "name")),
        encoder=words(at(recipe, "encoder", "name")),
        data=_data(recipe),
        seed=s if type(s := recipe.get("seed")) is int else None,
        step=None if step is None else int(step),
        total=_total(recipe, last),
        top1=top1(score),
        interval=pair(score.get("top1_ci95")),
        scored=scored,
        bytes=size(folder),
        when=_when(folder, state),
    )


def last_record(log: Path) -> dict[str, Any] | None:
    """The last whole record of a log, without reading the rest.

    Raises:
        Problem: Exit.CHECKPOINT if it is damaged.
    """
    if not reading.exists(log):
        return None
    with reading.opened(log) as handle:
        os.lseek(handle, max(0, os.fstat(handle).st_size - TAIL), os.SEEK_SET)
        found = reading.take(handle, TAIL).split(b"\n")[:-1]
    try:
        return documents.parse(found[-1]) if found else None
    except ValueError as error:
        message = f"{log} is damaged at its last line: {error}"
        raise Problem(message, Exit.CHECKPOINT, "run.damaged") from error


def held(folder: Path) -> bool:
    """Whether a living process holds the run's lock. It is asked for, shared, and let go at once."""
    try:
        handle = os.open(folder / ".lock", os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a disk without locks
        return False
    finally:
        os.close(handle)
    return False


def newest(folder: Path) -> tuple[dict[str, Any], str]:
    """The newest evaluation that can be read and has a top-1, and its name; empty if there is none."""
    found = [p for p in (folder / "evaluations").glob("*.json") if p.is_file()]
    for path in sorted(found, key=lambda p: p.stat().st_mtime, reverse=True):
        document = evaluation(path)
        if top1(document) is not None:
            return document, path.stem
    return {}, ""


def evaluation(path: Path) -> dict[str, Any]:
    """The document of one evaluation, empty if it cannot be read."""
    try:
        return documents.parse(reading.content(path))
    except (Problem, ValueError):
        return {}


def top1(document: dict[str, Any]) -> float | None:
    """Of a report or an evaluation."""
    return number(at(document, "metrics", "top1"))


def size(path: Path) -> int:
    """Bytes of all files below, as far as they can be seen; links are not followed."""
    total = 0
    try:
        for entry in os.scandir(path):
            inside = entry.is_dir(follow_symlinks=False)
            total += size(Path(entry)) if inside else entry.stat(follow_symlinks=False).st_size
    except OSError:  # it went away, or is another user's
        return total
    return total


def _looks(path: Path) -> bool:
    """Whether a folder is a run; one that may not be looked into may be one."""
    try:
        return bool(set(SIGNS) & set(reading.names(path)))
    except Problem:
        return path.is_dir()


def _state(status: str, faults: list[str]) -> tuple[str, str]:
    if faults:
        return "broken", "; ".join(faults)
    if status == "done":
        return "done", ""
    if status.startswith("stopped by "):
        return "stopped", status
    if status == "failed: train.collapsed":
        return "collapsed", ""
    if status.startswith("failed: "):
        return "failed", status.removeprefix("failed: ")
    if status == "running":
        return "unfinished", "its process is gone"
    return "broken", f"run.json has the status {status!r}"


def _data(recipe: dict[str, Any]) -> str:
    place = words(at(recipe, "data", "path"))
    return (Path(place).name if place else "") or words(at(recipe, "data", "name"))


def _total(recipe: dict[str, Any], last: dict[str, Any]) -> int | None:
    """Steps of the whole run, where log and recipe tell them."""
    epochs, step, epoch = (
        number(v) for v in (at(recipe, "train", "epochs"), last.get("step"), last.get("epoch"))
    )
    return round(epochs * step / epoch) if epochs and step and epoch else None


def _when(folder: Path, state: dict[str, Any]) -> datetime:
    try:
        found = datetime.fromisoformat(words(state.get("started_utc")))
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    except ValueError:
        return datetime.fromtimestamp(folder.stat().st_mtime, UTC)
