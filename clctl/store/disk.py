"""The calls that reach the disk, and what their errors mean to a user."""

import errno
import math
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from clctl.console import Exit, Problem


class System:
    """The calls that reach the disk. A test replaces `system` to make one of them fail."""

    open = staticmethod(os.open)
    read = staticmethod(os.read)
    write = staticmethod(os.write)
    truncate = staticmethod(os.ftruncate)
    fsync = staticmethod(os.fsync)
    close = staticmethod(os.close)
    rename = staticmethod(os.replace)
    unlink = staticmethod(os.unlink)
    mkdir = staticmethod(os.mkdir)
    rmdir = staticmethod(os.rmdir)


system = System()


@contextmanager
def writing(path: Path, need: int = 0) -> Generator[None]:
    """Tell errors of the disk as Problems that say what to do."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        reason = os.strerror(error.errno or errno.EIO)
        if full:
            code, advice = "disk.full", f"free {_missing(path, need)} MB"
            if error.errno == errno.EFBIG:  # of this process, and not of the disk
                advice = "raise the limit on the size of a file (ulimit -f)"
        elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ELOOP):
            code, advice = (
                "disk.not-writable",
                f"make {path.parent} writable, or give another --out",
            )
        elif error.errno in (errno.ENOENT, errno.ENOTDIR):
            code, advice = "disk.no-folder", f"see that {path.parent} is a folder"
        else:
            code, advice = "disk.failed", f"check the disk of {path.parent}"
        suggestion = f"{advice} and run the same command again"
        raise Problem(
            f"{path} cannot be written: {reason}", Exit.RESOURCES, code, suggestion
        ) from error


def _missing(path: Path, need: int) -> int:
    """Megabytes to free, at least 1, so that `need` bytes fit."""
    try:
        disk = os.statvfs(path.parent)
        free = disk.f_bavail * disk.f_frsize
    except OSError:
        free = 0
    return max(1, math.ceil((need - free) / 1e6))
