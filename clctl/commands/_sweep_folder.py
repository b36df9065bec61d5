"""The folder of a sweep: what marks it, and the runs in it. No torch here."""

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

from clctl.commands._report_read import SIGNS, words
from clctl.commands._runs_read import folders, row
from clctl.console import Exit, Problem
from clctl.store import documents, files, reading

MARK = "sweep.json"
RUNS, ROWS = "runs", "rows"


def origin(folder: Path) -> str:
    """The id of a sweep's folder, drawn when it is made, so that its rows differ from others'.

    Raises:
        Problem: Exit.USAGE if the folder is a run; Exit.CHECKPOINT if its mark is damaged.
    """
    if set(SIGNS) & set(reading.names(folder)):
        raise Problem(
            f"{folder} is a run, not a folder for a sweep",
            Exit.USAGE,
            "sweep.run",
            "give an --out of its own",
        )
    path = folder / MARK
    if reading.exists(path):
        known = words(documents.read(path, "sweep.damaged").get("id"))
        if not known.isalnum():
            raise Problem(f"{path} has no id", Exit.CHECKPOINT, "sweep.damaged", "delete it")
        return known
    for place in (folder, folder / RUNS, folder / ROWS):
        files.make(place)
    drawn = secrets.token_hex(4)
    files.write(path, documents.encode({"schema": "clctl/sweep-folder/1", "id": drawn}) + b"\n")
    return drawn


def runs(subjects: Sequence[str], say: Callable[[str], None] | None = None) -> tuple[str, ...]:
    """The same, with the folder of a sweep replaced by the runs in it, in the order of their names.

    Args:
        say: If given, only runs that are done are taken, and it is told of the others.

    Raises:
        Problem: Exit.CHECKPOINT if a sweep has no such run yet.
    """
    found: list[str] = []
    for subject in subjects:
        folder = Path(subject)
        if not (folder / MARK).is_file():
            found.append(subject)
            continue
        inside = folders(folder / RUNS) if (folder / RUNS).is_dir() else []
        taken: list[Path] = []
        for path in inside:
            if say is not None and (state := row(path)).state != "done":
                say(f"  left out  {path.name}: {state.said}")
            else:
                taken.append(path)
        if not taken:
            raise Problem(
                f"{subject} is a sweep without a run" + (" that is done" if inside else ""),
                Exit.CHECKPOINT,
                "sweep.no-run",
                "the command of the sweep goes on",
            )
        found += map(str, taken)
    return tuple(found)
