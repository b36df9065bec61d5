"""The image store: pictures decoded once into a memory-mapped file that later runs share.

A store is a folder `images/<key>/` with `canvas.u8` (uint8 [N, H, W, C]) and `index.json`. Its
key covers names, sizes and times of the files and how they are decoded. It is built in
`<key>.partial/` and renamed when whole. A lock file in there, held while building, lets a second
process wait for the first, and tells a living builder's folder from a dead one's.
"""

import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch

from clctl.console import Exit, Problem
from clctl.data.build import CANVAS, INDEX, build
from clctl.data.decode import Bounds
from clctl.data.mapped import mapped
from clctl.data.scan import File
from clctl.images import Images

VERSION = "clctl/images/1"
LOCK = "lock"


@dataclass(frozen=True)
class Store:
    """Decoded pictures, in the order of the files given.

    Attributes:
        images: The N good ones on one canvas, mapped from disk.
        rows: For each of them, its position in the list of files; rising.
        digests: For each of them, sha256 hex of its file's bytes.
        bad: Position and reason of each file that could not be decoded.
    """

    images: Images
    rows: list[int]
    digests: list[str]
    bad: list[tuple[int, str]]


def home() -> Path:
    """Where stores lie: $CLCTL_CACHE, else $XDG_CACHE_HOME/clctl, else ~/.cache/clctl."""
    if given := os.environ.get("CLCTL_CACHE"):
        return Path(given)
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "clctl"
    return Path(os.path.expanduser("~")) / ".cache" / "clctl"


def decoded(files: Sequence[File], bounds: Bounds, talk: Callable[[str], None]) -> Store:
    """The pictures of these files, decoded now or by an earlier run.

    Raises:
        Problem: If the cache folder cannot be written, or the disk is full.
    """
    rows = [(file.name, file.size, file.mtime) for file in files]
    content = json.dumps([VERSION, bounds.short_side, bounds.max_aspect, rows])
    final = home() / "images" / hashlib.sha256(content.encode()).hexdigest()
    paths = [file.path for file in files]
    try:
        return _read(final, talk) or _made(final, paths, bounds, talk)
    except OSError as error:
        raise Problem(
            f"the image store cannot be kept in {final.parent}: {error.strerror or error}",
            Exit.RESOURCES,
            "cache.not-writable",
            "set CLCTL_CACHE to a folder that can be written",
        ) from error


def _read(final: Path, talk: Callable[[str], None], fresh: bool = False) -> Store | None:
    """The store, or None where there is none that can be used.

    A store that lacks pictures for a reason outside of the files (permissions, memory) serves
    only the run that built it, which is `fresh`.
    """
    try:
        index = json.loads((final / INDEX).read_text())
        if (final / CANVAS).stat().st_size != math.prod(index["shape"]):
            raise ValueError("size")
        lasting, rows = index["lasting"], index["rows"]
        bad = [(row, reason) for row, reason in index["bad"]]
        sizes = torch.tensor(index["sizes"], dtype=torch.int64).reshape(len(rows), 2)
        images = Images(mapped(final / CANVAS, index["shape"]).permute(0, 3, 1, 2), sizes)
        store = Store(images, rows, index["digests"], bad)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        talk(f"the image store {final} is damaged and is built again")
        return None
    return store if lasting or fresh else None


def _made(final: Path, paths: Sequence[str], bounds: Bounds, talk: Callable[[str], None]) -> Store:
    """Build the store, or wait for the process that does."""
    draft = final.with_name(f"{final.name}.partial")
    while True:
        draft.mkdir(parents=True, exist_ok=True)
        _sweep(final.parent, draft)
        try:
            lock = open(draft / LOCK, "w")  # noqa: SIM115 (closed by the next line)
        except FileNotFoundError:  # another process finished between these two lines
            continue
        with lock:
            if not _held(lock):
                talk("another process is decoding these pictures; waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            mine = _still_there(lock, draft / LOCK)
            store = _read(final, talk)
            if mine and store is None:
                return _build(draft, final, paths, bounds, talk)
            if mine:
                shutil.rmtree(draft)
            if store is not None:
                return store


def _build(
    draft: Path, final: Path, paths: Sequence[str], bounds: Bounds, talk: Callable[[str], None]
) -> Store:
    try:
        build(paths, bounds, draft, talk)
        if final.exists():  # one that `_read` refused
            shutil.rmtree(final)
        os.rename(draft, final)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)  # the first error is the one to tell
        raise
    folder = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    store = _read(final, talk, fresh=True)
    assert store is not None, f"{final} vanished while it was opened"
    return store


def _sweep(folder: Path, but: Path) -> None:
    """Remove what builders left that died: a living one holds its lock."""
    for draft in folder.glob("*.partial"):
        if draft == but:
            continue
        with suppress(FileNotFoundError, PermissionError), open(draft / LOCK, "w") as lock:
            if _held(lock):
                shutil.rmtree(draft)


def _held(lock: IO[str]) -> bool:
    """Take the lock if it is free."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _still_there(lock: IO[str], path: Path) -> bool:
    """False where the folder was renamed or removed while this process waited for its lock."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
