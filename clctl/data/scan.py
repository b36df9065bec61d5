"""What lies under a folder: the pictures, and a count of everything else. Opens no file."""

import os
import stat
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from clctl.console import Exit, Problem
from clctl.data.decode import HEIC, suffixes

HEARTBEAT = 5.0  # seconds between lines of talk
SYSTEM = ("lost+found", "__MACOSX")  # left by file systems and archives; never pictures


class File(NamedTuple):
    """A picture file. There may be millions, and a tuple is made in a third of the time.

    Attributes:
        path: As the system opens it.
        name: Path below the folder with forward slashes, valid text even where the file
            system's bytes are not.
        size: Bytes.
        mtime: Time of the last change in nanoseconds.
    """

    path: str
    name: str
    size: int
    mtime: int


@dataclass(frozen=True)
class Found:
    """Pictures in the order of their names, and how many others there are by suffix."""

    files: tuple[File, ...]
    others: dict[str, int]

    def others_in_words(self) -> str:
        """Such as "412 .heic, 3 .txt", the most frequent first."""
        rows = sorted(self.others.items(), key=lambda item: (-item[1], item[0]))
        more = f" and {sum(n for _, n in rows[8:])} more" if rows[8:] else ""
        return ", ".join(f"{n} {suffix}" for suffix, n in rows[:8]) + more

    def remarks(self) -> list[str]:
        """What was not read, in sentences; what a package would open stands for itself."""
        apple = {suffix: n for suffix, n in self.others.items() if suffix in HEIC}
        rest = {suffix: n for suffix, n in self.others.items() if suffix not in HEIC}
        said = [
            f"{Found((), apple).others_in_words()} ignored: {INSTALL}" if apple else "",
            f"not read: {Found((), rest).others_in_words()}" if rest else "",
        ]
        return [line for line in said if line]


INSTALL = "pip install 'clctl[heic]'"


def scan(
    folder: str, talk: Callable[[str], None] = lambda line: None, but: tuple[str, ...] = ()
) -> Found:
    """Find pictures under `folder` by suffix, at any depth; hidden files and folders are left out.

    Linked folders are followed once real ones are read, each folder once and never one that
    holds `folder` itself, so that links in a circle end. Only regular files count.

    Args:
        folder: Where to look.
        talk: Takes lines for people.
        but: Absolute paths of files that are known and not counted.

    Raises:
        Problem: If `folder` or a folder below it cannot be read, or holds no picture.
    """
    root = Path(folder)
    if not root.exists():
        raise Problem(
            f"there is no folder {folder}", Exit.DATA, "data.missing", "check data.path or --data"
        )
    if not root.is_dir():
        raise Problem(f"{folder} is not a folder", Exit.DATA, "data.not-a-folder")
    files: list[File] = []
    others: Counter[str] = Counter()
    wanted, told = frozenset(suffixes()), time.monotonic()
    for prefix, entries in _walk(root, others):
        for entry, status in entries:
            if status is None:
                others["broken links"] += 1
            elif not stat.S_ISREG(status.st_mode):
                others["pipes, sockets or devices"] += 1
            elif (suffix := _suffix(entry.name)) in wanted:
                name = f"{prefix}{_text(entry.name)}"
                files.append(File(entry.path, name, status.st_size, status.st_mtime_ns))
            elif entry.path not in but:
                others[_text(suffix) or "without suffix"] += 1
            if time.monotonic() - told > HEARTBEAT:
                told = time.monotonic()
                talk(f"found {len(files):,} pictures so far under {folder}")
    found = Found(tuple(sorted(files, key=attrgetter("name"))), dict(others))
    if not files:
        what = found.others_in_words() or "nothing"
        apple = any(suffix in HEIC for suffix in others)
        raise Problem(
            f"no picture under {folder} (found: {what}; pictures are {' '.join(suffixes())})",
            Exit.DATA,
            "data.no-pictures",
            INSTALL if apple else "give a folder with pictures, at any depth",
        )
    return found


def _walk(
    root: Path, others: Counter[str]
) -> Iterator[tuple[str, Iterator[tuple[os.DirEntry[str], os.stat_result | None]]]]:
    """Each folder as text below `root`, ending in "/", and what in it is no folder, as it is read.

    That is entries with their status, None for a broken link.
    """
    seen = {_identity(os.stat(place)) for place in root.resolve().parents}
    waiting, linked = deque([(str(root), "")]), deque[tuple[str, str]]()

    def inside(place: str, prefix: str) -> Iterator[tuple[os.DirEntry[str], os.stat_result | None]]:
        for entry in _entries(place):
            status = _status(entry)
            if status is not None and stat.S_ISDIR(status.st_mode):
                queue = linked if entry.is_symlink() else waiting
                queue.append((entry.path, f"{prefix}{_text(entry.name)}/"))
            else:
                yield entry, status

    while waiting or linked:
        place, prefix = (waiting or linked).popleft()
        try:
            identity = _identity(os.stat(place))
        except OSError as error:
            raise _unreadable(place, error) from error
        if identity in seen:
            others["links to folders already read"] += 1
            continue
        seen.add(identity)
        yield prefix, inside(place, prefix)


def _entries(place: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(place) as entries:
            visible = [e for e in entries if not e.name.startswith(".") and e.name not in SYSTEM]
    except OSError as error:
        raise _unreadable(place, error) from error
    return sorted(visible, key=attrgetter("name"))


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Status of what an entry leads to, or None for a link that leads nowhere or in a circle.

    A file that was removed since its folder was read counts as such a link.
    """
    try:
        return entry.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        if entry.is_symlink():
            return None
        raise _unreadable(entry.path, error) from error


def _unreadable(place: str, error: OSError) -> Problem:
    gone = isinstance(error, FileNotFoundError)
    return Problem(
        f"{place} cannot be read: {error.strerror}" + (", as of a moment ago" if gone else ""),
        Exit.DATA,
        "data.unreadable-folder",
        "start again once nothing is written there"
        if gone
        else "make it readable, or move it elsewhere",
    )


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _suffix(name: str) -> str:
    """As `os.path.splitext` has it for a name that does not begin with a dot, in lower case."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else ""


def _text(name: str) -> str:
    """Valid text for any name; a part of a path stands for itself, as "/" is the same in all."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")
