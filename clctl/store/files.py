"""The only place that writes a run's files: beside their place, synced, renamed, folder synced."""

import errno
import hashlib
import os
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from clctl.store import disk, reading

muted: Path | None = None  # a folder that another process writes, in step with this one

_TAIL = 4096  # bytes read at once to find a log's last newline


def write(path: Path, data: bytes | Iterable[bytes | memoryview], need: int = 0) -> str:
    """Put `data` at `path`, the whole of it or nothing; a link there is replaced, not followed.

    Args:
        need: Bytes that must be free, told to the user if the disk is full.

    Returns:
        The sha256 of the data, in hex.

    Raises:
        Problem: If the disk or the folder does not take it; what was at `path` is still there.
    """
    if left_to_another(path):
        return ""
    if isinstance(data, bytes):
        data, need = (data,), max(need, len(data))
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    digest = hashlib.sha256()
    with disk.writing(path, need):
        handle = disk.system.open(
            draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666
        )
        try:
            try:
                for chunk in data:
                    digest.update(chunk)
                    put(handle, chunk)
                disk.system.fsync(handle)
            finally:
                disk.system.close(handle)
            disk.system.rename(draft, path)
        except BaseException:
            with suppress(OSError):  # the first error is the one to tell
                disk.system.unlink(draft)
            raise
        _sync(path.parent)
    return digest.hexdigest()


def append(path: Path, line: bytes) -> None:
    """Add one line, given without its newline, for readers that skip a last line without one.

    Not synced: a log is written often. `sync` makes it safe against a power cut.
    """
    if b"\n" in line:
        raise ValueError("append takes one line")
    if left_to_another(path):
        return
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    with disk.writing(path, len(line) + 1):
        handle = disk.system.open(path, flags, 0o666)
        try:
            _drop_torn_line(handle)
            put(handle, line + b"\n")
        finally:
            disk.system.close(handle)


def truncate_lines(path: Path, keep: Callable[[bytes], bool]) -> None:
    """Rewrite the file without the lines that `keep` refuses. A missing file stays missing."""
    if left_to_another(path):
        return
    found = reading.lines(path)
    kept = [line for line in found if keep(line)]
    if len(kept) < len(found):
        write(path, b"".join(line + b"\n" for line in kept))


def sync(path: Path) -> None:
    """Wait until what was appended to the file is on the disk."""
    with disk.writing(path):
        handle = disk.system.open(path, os.O_RDONLY)
        try:
            disk.system.fsync(handle)
        finally:
            disk.system.close(handle)


def make(folder: Path) -> None:
    """Make the folder and those above it."""
    if left_to_another(folder):
        return
    with disk.writing(folder):
        missing = [place for place in (folder, *folder.parents) if not place.is_dir()]
        for place in reversed(missing):
            with suppress(FileExistsError):
                disk.system.mkdir(place, 0o777)
            if not place.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "a file has its name", str(place))
            _sync(place.parent)


def rename(old: Path, new: Path) -> None:
    """Rename within one folder, for good."""
    with disk.writing(new):
        disk.system.rename(old, new)
        _sync(new.parent)


def remove(path: Path) -> None:
    """Delete a file, or a folder with all that is in it; links are not followed."""
    if left_to_another(path):
        return
    with disk.writing(path):
        _remove(path)


def put(handle: int, data: bytes | memoryview) -> None:
    """Write all of it: the system may take only a part at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[disk.system.write(handle, rest) :]


def sweep(folder: Path) -> None:
    """Delete the drafts that writers which died have left in the folder."""
    for name in reading.names(folder):
        if name.startswith(".") and name.endswith(".tmp"):
            remove(folder / name)


def left_to_another(path: Path) -> bool:
    """Whether another process writes this."""
    return muted is not None and path.absolute().is_relative_to(muted)


def _drop_torn_line(handle: int) -> None:
    """Cut off what follows the last newline, which a fault left, and go to the file's end."""
    size = end = os.lseek(handle, 0, os.SEEK_END)
    while end > 0:
        start = max(0, end - _TAIL)
        os.lseek(handle, start, os.SEEK_SET)
        newline = reading.take(handle, end - start).rfind(b"\n")
        end = start + newline + 1
        if newline >= 0:
            break
    if end < size:
        disk.system.truncate(handle, end)
    os.lseek(handle, end, os.SEEK_SET)


def _sync(folder: Path) -> None:
    handle = disk.system.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        disk.system.fsync(handle)
    except OSError as error:
        # Some network file systems have no sync of a folder; they order such changes themselves.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        disk.system.close(handle)


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        disk.system.unlink(path)
        return
    for name in sorted(os.listdir(path)):
        _remove(path / name)
    try:
        disk.system.rmdir(path)
    except OSError as error:
        # A network folder keeps a file that someone still reads; a later sweep takes it.
        if error.errno not in (errno.ENOTEMPTY, errno.EBUSY):
            raise
