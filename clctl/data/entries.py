"""The stores that the cache keeps: how large, when last used, whether in use; and their removal.

A store is in use as long as a process maps its canvas, for the mapping keeps a shared lock on
that file; the system gives the lock back when the process ends, however it ends. No torch here.
"""

import fcntl
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from clctl.console import Exit, Problem
from clctl.data.home import home

CANVAS, INDEX, ABOUT = "canvas.u8", "index.json", "about.json"
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


@dataclass(frozen=True)
class Entry:
    """One store.

    Attributes:
        path: Its folder.
        name: Last part of the pictures' folder, or of its own where that was not noted.
        origin: The pictures' folder, None where that was not noted.
        pictures: How many it holds, None where that was not noted.
        bytes: On disk.
        used: When a command last opened it.
        in_use: Whether a running process maps it.
    """

    path: Path
    name: str
    origin: str | None
    pictures: int | None
    bytes: int
    used: datetime
    in_use: bool


def limit() -> int:
    """Bytes that all stores may take together: $CLCTL_CACHE_LIMIT, else half of their disk.

    Raises:
        Problem: If the variable is no size.
    """
    given = os.environ.get("CLCTL_CACHE_LIMIT")
    if not given:
        place = home().absolute()
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).total // 2
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?", given.strip().lower())
    if found is None or found[2] not in UNITS | BINARY:
        raise Problem(
            f"CLCTL_CACHE_LIMIT is {given}, which is no size",
            Exit.USAGE,
            "cache.limit",
            "give it as 50GB or 1.5TB, or unset it: half of the disk",
        )
    return int(float(found[1]) * (UNITS | BINARY)[found[2]])


def entries() -> list[Entry]:
    """All stores that are whole, the one used last first."""
    found = list[Entry]()
    folder = home() / "images"
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.suffix != ".partial" and path.is_dir():
            with suppress(FileNotFoundError):  # removed meanwhile, or not a store
                found.append(_entry(path))
    return sorted(found, key=lambda entry: entry.used, reverse=True)


def remove(path: Path) -> bool:
    """Remove a store; False if it is in use and was left alone.

    Raises:
        OSError: If it may not be removed.
    """
    try:
        canvas = os.open(path / CANVAS, os.O_RDWR)
    except FileNotFoundError:
        canvas = None
    try:
        if canvas is not None:
            fcntl.flock(canvas, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Out of sight in one go; what a dying process leaves of it, the next builder sweeps.
        doomed = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
        os.rename(path, doomed)
        shutil.rmtree(doomed)
    except BlockingIOError:
        return False
    except FileNotFoundError:  # another process was faster
        pass
    finally:
        if canvas is not None:
            os.close(canvas)
    return True


def make_room(talk: Callable[[str], None]) -> None:
    """Remove stores, the one unused for longest first, until the rest keeps within the limit.

    A store in use stays, so the caller opens what it wants to keep.
    """
    most, found = limit(), entries()
    total = sum(entry.bytes for entry in found)
    for entry in reversed(found):
        if total <= most:
            return
        with suppress(OSError):  # one of another user's
            if not entry.in_use and remove(entry.path):
                total -= entry.bytes
                talk(
                    f"the cache is over its {in_words(most)}: removed the pictures of {entry.name} "
                    f"({in_words(entry.bytes)}), last used {entry.used:%Y-%m-%d}"
                )
    if total > most:
        talk(
            f"the cache takes {in_words(total)}, over its limit of {in_words(most)} "
            "(CLCTL_CACHE_LIMIT), all of it in use"
        )


def in_words(size: int) -> str:
    """Bytes as "4.2 GB"."""
    for unit in ("TB", "GB", "MB"):
        if size >= UNITS[unit[0].lower()]:
            return f"{size / UNITS[unit[0].lower()]:.1f} {unit}"
    return f"{size / 1000:.1f} kB"


def _entry(path: Path) -> Entry:
    used = datetime.fromtimestamp((path / INDEX).stat().st_mtime, UTC)
    size = sum(file.stat().st_size for file in path.iterdir())
    about: dict[str, object] = {}
    with suppress(OSError, ValueError):
        about = json.loads((path / ABOUT).read_text())
    origin, pictures = about.get("origin"), about.get("pictures")
    return Entry(
        path=path,
        name=Path(str(origin)).name if origin else path.name[:12],
        origin=str(origin) if origin else None,
        pictures=pictures if isinstance(pictures, int) else None,
        bytes=size,
        used=used,
        in_use=_in_use(path / CANVAS),
    )


def _in_use(canvas: Path) -> bool:
    with suppress(FileNotFoundError), open(canvas, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # held, or a disk without locks, where one cannot know
            return True
    return False
