"""What lies under a folder: the pictures, and a count of everything else. Opens no file."""

import os
import stat
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path

from clctl.console import Exit, Problem
from clctl.data.decode import SUFFIXES

SYSTEM = ("lost+found", "__MACOSX")  # left by file systems and archives; never pictures


@dataclass(frozen=True)
class File:
    """A picture file.

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


def scan(folder: str) -> Found:
    """Find pictures under `folder` by suffix, at any depth; hidden files and folders are left out.

    Linked folders are followed once real ones are read, each folder once and never one that
    holds `folder` itself, so that links in a circle end. Only regular files count.

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
    resolved = root.resolve()
    seen = {_identity(os.stat(place)) for place in resolved.parents}
    waiting, linked = deque([(str(root), "")]), deque[tuple[str, str]]()
    while waiting or linked:
        place, prefix = (waiting or linked).popleft()
        identity = _identity(os.stat(place))
        if identity in seen:
            others["links to folders already read"] += 1
            continue
        seen.add(identity)
        for entry in _entries(place):
            name = f"{prefix}{entry.name}"
            status = _status(entry)
            if status is None:
                others["broken links"] += 1
            elif stat.S_ISDIR(status.st_mode):
                queue = linked if entry.is_symlink() else waiting
                queue.append((entry.path, f"{name}/"))
            elif not stat.S_ISREG(status.st_mode):
                others["pipes, sockets or devices"] += 1
            elif (suffix := os.path.splitext(entry.name)[1].lower()) in SUFFIXES:
                files.append(File(entry.path, _text(name), status.st_size, status.st_mtime_ns))
            else:
                others[_text(suffix) or "without suffix"] += 1
    found = Found(tuple(sorted(files, key=lambda file: file.name)), dict(others))
    if not files:
        what = found.others_in_words() or "nothing"
        raise Problem(
            f"no .jpg, .jpeg or .png picture under {folder} (found: {what})",
            Exit.DATA,
            "data.no-pictures",
            "give a folder with pictures, at any depth",
        )
    return found


def _entries(place: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(place) as entries:
            visible = [e for e in entries if not e.name.startswith(".") and e.name not in SYSTEM]
    except OSError as error:
        raise _unreadable(place, error) from error
    return sorted(visible, key=lambda entry: entry.name)


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Status of what an entry leads to, or None where a link leads nowhere or in a circle."""
    try:
        return entry.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        if entry.is_symlink():
            return None
        raise _unreadable(entry.path, error) from error


def _unreadable(place: str, error: OSError) -> Problem:
    return Problem(
        f"{place} cannot be read: {error.strerror}",
        Exit.DATA,
        "data.unreadable-folder",
        "make it readable, or move it elsewhere",
    )


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _text(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")
