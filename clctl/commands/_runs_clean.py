"""What of a folder of runs may go, and its removal.

Three rules, for runs that no process holds: of a run that is done, all checkpoints but the newest
whole one; a run that failed or collapsed before its first checkpoint and holds nothing else of
worth; drafts that writers which died have left. All else stays: a run that was stopped or killed
can go on, and one that failed with a checkpoint can be looked into.
"""

from dataclasses import dataclass
from pathlib import Path

from clctl.commands import _runs_read as read
from clctl.console import Problem
from clctl.store import checkpoint, files, reading
from clctl.store.run import Run

OURS = {
    ".lock",
    "run.json",
    "recipe.yaml",
    "recipe.resolved.json",
    "files.jsonl.gz",
    "initial.safetensors",
    "metrics.jsonl",
    "not-finite.json",
    "pictures",
    "tensorboard",
}  # what a run that has come to nothing may hold and still go
MADE = ("checkpoints", "evaluations", "exports")  # these too, with nothing in them
HOMES = ("checkpoints", "pictures", "evaluations")  # where drafts may lie


@dataclass(frozen=True)
class Doomed:
    """What of one run would go.

    Attributes:
        paths: Files and folders; the run's own folder if all of it would.
        why: In words.
        bytes: What they take.
    """

    run: Path
    paths: tuple[Path, ...]
    why: str
    bytes: int


def doomed(folder: Path, ours: bool = False) -> Doomed | None:
    """What may go of a run, None if nothing. Nothing is read but names and states.

    Args:
        ours: Whether this process holds the run.
    """
    row = read.row(folder, ours)
    if row.state in ("running", "broken"):
        return None
    if row.state in ("failed", "collapsed") and _worthless(folder):
        return Doomed(folder, (folder,), f"{row.said}, before its first checkpoint", row.bytes)
    older = _older(folder) if row.state == "done" else []
    drafts = [path for home in ("", *HOMES) for path in _drafts(folder / home)]
    why = ", ".join(
        f"{len(paths)} {word}{'s' if len(paths) > 1 else ''}"
        for paths, word in ((older, "older checkpoint"), (drafts, "draft"))
        if paths
    )
    paths = (*older, *drafts)
    return Doomed(folder, paths, why, sum(map(_bytes, paths))) if paths else None


def remove(agreed: Doomed) -> int:
    """Remove it, under the run's lock, as far as it may still go; gives the bytes that are free.

    The checkpoint that stays is read to its last byte before any other goes.

    Raises:
        Problem: If the run is in use by now, or something may not be removed.
    """
    folder, before = agreed.run, read.size(agreed.run)
    with Run(folder).lock():
        now = doomed(folder, ours=True)
        may = {*agreed.paths} & {*(now.paths if now else ())}
        if folder in may:
            files.remove(folder)
        elif folder not in agreed.paths:
            for home in ("", *HOMES):
                files.sweep(folder / home)
            if may & {*_older(folder)}:
                checkpoint.prune(folder, keep=1)
    return max(0, before - read.size(folder))


def _older(folder: Path) -> list[Path]:
    """All checkpoints but the newest."""
    steps = sorted({*checkpoint.steps(folder)})[:-1]
    paths = [folder / checkpoint.CHECKPOINTS / f"step-{step:08d}" for step in steps]
    return [path for path in paths if path.is_dir()]


def _worthless(folder: Path) -> bool:
    """Whether nothing but the beginnings of a run lies there: no checkpoint, nothing made of one."""
    inside = {name for name in _names(folder) if not _is_draft(name)}
    made = [name for home in MADE for name in _names(folder / home) if not _is_draft(name)]
    return inside <= {*OURS, *MADE} and not made


def _drafts(home: Path) -> list[Path]:
    return [home / name for name in _names(home) if _is_draft(name)]


def _names(folder: Path) -> list[str]:
    try:
        return reading.names(folder)
    except Problem:  # what may not be looked into is taken to hold something
        return ["?"]


def _is_draft(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


def _bytes(path: Path) -> int:
    return read.size(path) if path.is_dir() else path.lstat().st_size
