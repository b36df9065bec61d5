"""SHA256SUMS: the checksums of the files in a folder, as `sha256sum -c` reads them."""

import re
from pathlib import Path

from clctl.console import Exit, Problem
from clctl.store import files, reading

NAME = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9_-][A-Za-z0-9._-]*)")  # a plain name, no path


def write(folder: Path) -> None:
    """Write the sums of all files in the folder, in the order of their names.

    Raises:
        Problem: Exit.RESOURCES if the disk does not take it.
    """
    names = [name for name in reading.names(folder) if name != NAME]
    lines = [f"{reading.digest(folder / name)}  {name}\n" for name in names]
    files.write(folder / NAME, "".join(lines).encode())


def check(folder: Path) -> dict[str, bool]:
    """Name of each file that SHA256SUMS names -> whether it is there as it was written.

    Raises:
        Problem: Exit.CHECKPOINT if SHA256SUMS is missing or is no list of sums and plain names.
    """
    found: dict[str, bool] = {}
    for line in reading.content(folder / NAME).decode(errors="replace").splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            raise Problem(
                f"{folder / NAME} is damaged at the line {line[:60]!r}",
                Exit.CHECKPOINT,
                "checkpoint.damaged",
                "export again",
            )
        known, name = match.groups()
        there = name in reading.names(folder)
        found[name] = there and reading.digest(folder / name) == known
    return found
