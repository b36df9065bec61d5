"""Reading a run's files: regular files only, and never more than expected."""

import errno
import hashlib
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from clctl.console import Exit, Problem
from clctl.store import disk

BLOCK = 1 << 20
LARGEST = 64 << 20  # bytes of a JSON document
LARGEST_LOG = 8 << 30


@contextmanager
def opened(path: Path) -> Generator[int]:
    """A descriptor at the start of a regular file.

    Raises:
        Problem: Exit.CHECKPOINT if there is no such file or the disk fails to give its bytes;
            Exit.RESOURCES if it may not be read. Also for errors inside the block.
    """
    with _telling(path):
        handle = disk.system.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe must not hang us
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                message = f"{path} is not a regular file"
                raise Problem(message, Exit.CHECKPOINT, "checkpoint.damaged")
            yield handle
        finally:
            disk.system.close(handle)


def take(handle: int, count: int) -> bytes:
    """The next `count` bytes, fewer where the file ends."""
    parts: list[bytes] = []
    while count > 0 and (part := disk.system.read(handle, min(count, BLOCK))):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def content(path: Path, limit: int = LARGEST) -> bytes:
    """The whole file.

    Raises:
        Problem: If it cannot be read, or is larger than `limit` bytes.
    """
    with opened(path) as handle:
        found = take(handle, limit + 1)
    if len(found) > limit:
        message = f"{path} is larger than {limit:,} bytes"
        raise Problem(message, Exit.CHECKPOINT, "checkpoint.damaged")
    return found


def lines(path: Path) -> list[bytes]:
    """The complete lines of a file, without their newlines; none where there is no file."""
    return content(path, LARGEST_LOG).split(b"\n")[:-1] if exists(path) else []


def digest(path: Path) -> str:
    """The sha256 of the file, in hex."""
    return measured(path)[1]


def measured(path: Path) -> tuple[int, str]:
    """Number of bytes of the file, and their sha256 in hex."""
    found, size = hashlib.sha256(), 0
    with opened(path) as handle:
        while block := disk.system.read(handle, BLOCK):
            found.update(block)
            size += len(block)
    return size, found.hexdigest()


def exists(path: Path) -> bool:
    """Whether there is something of that name, be it a link to nothing.

    Raises:
        Problem: As `opened` does, if that may not be known.
    """
    with _telling(path):
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True


def names(folder: Path) -> list[str]:
    """What lies in the folder; nothing where there is no folder.

    Raises:
        Problem: As `opened` does.
    """
    with _telling(folder):
        try:
            return sorted(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return []


@contextmanager
def _telling(path: Path) -> Generator[None]:
    """Tell errors of the disk as Problems."""
    try:
        yield
    except OSError as error:
        reason = f"{path} cannot be read: {os.strerror(error.errno or errno.EIO)}"
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            problem = Problem(f"{path} does not exist", Exit.CHECKPOINT, "checkpoint.not-found")
        elif error.errno == errno.EIO:
            problem = Problem(reason, Exit.CHECKPOINT, "checkpoint.damaged")
        else:
            problem = Problem(reason, Exit.RESOURCES, "disk.unreadable")
        raise problem from error
