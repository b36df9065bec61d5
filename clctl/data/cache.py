"""The image store: pictures decoded once into a memory-mapped file that later runs share.

A store is a folder `images/<key>/` with `canvas.u8` (uint8 [N, H, W, C]) and `index.json`. Its
key covers names, sizes and times of the files and how they are decoded. It is built in
`<key>.partial/` and renamed when whole. A lock file in there, held while building, lets a second
process wait for the first, and tells a living builder's folder from a dead one's. Whoever reads
a store holds a shared lock on its canvas: see `entries`, which also says what is removed when.
"""

import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from clctl.console import Exit, Problem
from clctl.data.build import build
from clctl.data.decode import Bounds
from clctl.data.depth import Window
from clctl.data.entries import ABOUT, CANVAS, INDEX, limit, make_room
from clctl.data.home import home
from clctl.data.mapped import mapped
from clctl.data.scan import File
from clctl.images import Images

VERSION = "clctl/images/2"
LOCK = "lock"
PART = 4096  # files whose content is compared at once


@dataclass(frozen=True)
class Store:
    """Decoded pictures, in the order of the files given.

    Attributes:
        images: The N good ones on one canvas, mapped from disk.
        rows: For each of them, its position in the list of files; rising.
        digests: For each of them, sha256 hex of its file's bytes.
        bad: Position and reason of each file that could not be decoded.
        deep: How many pictures are grey with more than 8 bits.
        window: Their values that became 0 and 255; None where there are none.
    """

    images: Images
    rows: list[int]
    digests: list[str]
    bad: list[tuple[int, str]]
    deep: int = 0
    window: Window | None = None


def decoded(
    files: Sequence[File],
    bounds: Bounds,
    talk: Callable[[str], None],
    origin: str | None = None,
    verify: bool = False,
) -> Store:
    """The pictures of these files, decoded now or by an earlier run.

    Args:
        files: What is there; another name, size or time is another store.
        bounds: Size and aspect of the stored pictures.
        talk: Takes lines for people.
        origin: The pictures' folder, for people.
        verify: Compare the content of all files as well, and decode them anew where it differs.

    Raises:
        Problem: If the cache folder cannot be written, or the disk is full.
    """
    rows = [(file.name, file.size, file.mtime) for file in files]
    content = json.dumps([VERSION, bounds.short_side, bounds.max_aspect, rows])
    final = home() / "images" / hashlib.sha256(content.encode()).hexdigest()
    paths = [file.path for file in files]
    limit()  # a wrong one is told now rather than after an hour of decoding
    try:
        store = _read(final, talk)
        if store is None or (verify and _changed(store, paths, talk)):
            store = _made(final, Job(paths, bounds, origin, store), talk)
            make_room(talk)
    except OSError as error:
        raise Problem(
            f"the image store cannot be kept in {final.parent}: {error.strerror or error}",
            Exit.RESOURCES,
            "cache.not-writable",
            "set CLCTL_CACHE to a folder that can be written",
        ) from error
    return store


@dataclass(frozen=True)
class Job:
    """What is to be built, and the store of the same key that it replaces."""

    paths: Sequence[str]
    bounds: Bounds
    origin: str | None
    old: Store | None


def _read(final: Path, talk: Callable[[str], None], fresh: bool = False) -> Store | None:
    """The store, or None where there is none that can be used.

    A store that lacks pictures for a reason outside of the files (permissions, memory) serves
    only the run that built it, which is `fresh`.
    """
    try:
        with open(final / CANVAS, "rb") as canvas:
            with suppress(OSError):  # a disk without locks: nothing is removed there by others
                fcntl.flock(canvas, fcntl.LOCK_SH)  # waits for one who removes it
            if not _still_there(canvas, final / CANVAS):
                return None
            index = json.loads((final / INDEX).read_text())
            if os.fstat(canvas.fileno()).st_size != math.prod(index["shape"]):
                raise ValueError("size")
            lasting, rows = index["lasting"], index["rows"]
            bad = [(row, reason) for row, reason in index["bad"]]
            # numpy takes a third of the time that torch does for a list
            sizes = torch.from_numpy(np.array(index["sizes"], np.int64).reshape(len(rows), 2))
            images = Images(mapped(canvas, index["shape"]).permute(0, 3, 1, 2), sizes)
            low, high, deep = index["deep"] or (0.0, 0.0, 0)
        store = Store(images, rows, index["digests"], bad, deep, (low, high) if deep else None)
        with suppress(OSError):  # when it was last used; not where it may only be read
            os.utime(final / INDEX)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        talk(f"the image store {final} is damaged and is built again")
        return None
    return store if lasting or fresh else None


def _changed(store: Store, paths: Sequence[str], talk: Callable[[str], None]) -> bool:
    """Whether a file holds other bytes than those that were decoded."""
    talk(f"comparing the content of {len(store.rows):,} pictures with what was decoded")
    with ThreadPoolExecutor(thread_name_prefix="verify") as pool:
        for first in range(0, len(store.rows), PART):  # a part at a time: each waits in memory
            part = slice(first, first + PART)
            now = pool.map(_digest, [paths[row] for row in store.rows[part]])
            if list(now) != store.digests[part]:
                talk("the content of pictures has changed; all are decoded again")
                return True
    return False


def _digest(path: str) -> str:
    """sha256 hex of a file, empty where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _made(final: Path, job: Job, talk: Callable[[str], None]) -> Store:
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
            if store is not None and job.old is not None and store.digests == job.old.digests:
                store = None
            if mine and store is None:
                return _build(draft, final, job, talk)
            if mine:
                shutil.rmtree(draft)
            if store is not None:
                return store


def _build(draft: Path, final: Path, job: Job, talk: Callable[[str], None]) -> Store:
    try:
        build(job.paths, job.bounds, draft, talk)
        about = {"origin": job.origin, "pictures": len(job.paths)}
        (draft / ABOUT).write_text(json.dumps(about))
        if final.exists():  # one that `_read` refused, or that the pictures have left behind
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


def _still_there(lock: IO[Any], path: Path) -> bool:
    """False where the folder was renamed or removed while this process waited for its lock."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
